package metrics

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// checkHost answers 421 to a request whose Host header is not a name of this server:
// a page of another site, whose name was made to lead here (DNS rebinding), could
// read what next serves otherwise. An IP address is no name that a site could have,
// so all are allowed; so is no Host at all, which browsers never send. Probes may have
// any name: they show next to nothing, and no pod must be killed for it.
func checkHost(names []string, next http.Handler) http.Handler {
	allowed := map[string]bool{"localhost": true}
	for _, name := range names {
		allowed[plainHost(name)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := plainHost(r.Host)
		if _, err := netip.ParseAddr(host); err == nil || host == "" || allowed[host] || r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
			next.ServeHTTP(w, r)
			return
		}
		http.Error(w, fmt.Sprintf("the Host %q is not known here: ask for an IP address or localhost, or start poolinit with --http-host %s", host, host),
			http.StatusMisdirectedRequest)
	})
}

// plainHost is a host without port, brackets, the last dot and capital letters.
func plainHost(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
