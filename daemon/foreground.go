package daemon

import (
	"path"
	"strings"
)

// foregrounds says how well-known servers stay in the foreground.
var foregrounds = map[string]string{
	"apache2":      "-D FOREGROUND",
	"apache2ctl":   "-D FOREGROUND",
	"celery":       "without multi and --detach",
	"cron":         "-f",
	"crond":        "-f",
	"dnsmasq":      "--keep-in-foreground",
	"gunicorn":     "without --daemon",
	"haproxy":      "without -D, or with -db",
	"httpd":        "-D FOREGROUND",
	"memcached":    "without -d",
	"nginx":        "-g 'daemon off;'",
	"php-fpm":      "--nodaemonize",
	"postfix":      "start-fg",
	"redis-server": "--daemonize no",
	"rsyslogd":     "-n",
	"slapd":        "-d 0",
	"sshd":         "-D",
	"uwsgi":        "without --daemonize",
}

// foreground returns how a command is kept from putting itself into the background,
// or "". Debian's php-fpm8.2 is php-fpm.
func foreground(command []string) string {
	name := path.Base(command[0])
	known := foregrounds[name]
	if known == "" {
		name = strings.TrimRight(name, "0123456789.")
		known = foregrounds[name]
	}
	if known == "" {
		return ""
	}
	return name + ": " + known
}
