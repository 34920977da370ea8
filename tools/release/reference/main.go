// Reference writes the manual page of a poolinit and its completions for shells.
// All that is in them is asked from the binary: what --help prints, and what it
// says is allowed where a value is wrong.
//
//	go -C tools/release run ./reference BINARY DIRECTORY
//
// VERSION and SOURCE_DATE_EPOCH, in the environment, are the manual page's.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: reference BINARY DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func write(binary, dir string) error {
	p, err := ask(binary)
	if err != nil {
		return err
	}
	date := time.Now()
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		date = time.Unix(seconds, 0)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"poolinit.1":    p.man(os.Getenv("VERSION"), date.UTC().Format(time.DateOnly)),
		"poolinit.bash": p.bash(),
		"_poolinit":     p.zsh(),
		"poolinit.fish": p.fish(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
