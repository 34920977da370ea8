package daemon

import "testing"

func TestForeground(t *testing.T) {
	for command, want := range map[string]string{
		"redis-server":         "redis-server: --daemonize no",
		"/usr/sbin/nginx":      "nginx: -g 'daemon off;'",
		"/usr/sbin/php-fpm8.2": "php-fpm: --nodaemonize",
		"apache2":              "apache2: -D FOREGROUND",
		"/app/server":          "",
		"/app/nginx/run":       "",
		"2":                    "",
	} {
		if got := foreground([]string{command}); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}
