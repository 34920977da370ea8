//go:build !race

// Package race tells whether the race detector is in a test: it takes memory, and allocates.
package race

// On is whether it is.
const On = false
