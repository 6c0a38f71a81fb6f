package gateway

import (
	"cmp"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// web is what keeps pages of other sites from using a gateway that asks for no token: a browser on this machine, or in this
// network, reaches it, whoever wrote the page.
type web struct {
	guarded bool     // no token is asked for
	hosts   []string // names that may stand in Host beside addresses, localhost and names without a dot
	origins []string // that may read answers, "*" for all
	cross   *http.CrossOriginProtection
}

func newWeb(o Options) (*web, error) {
	wb := &web{guarded: len(o.Tokens) == 0, hosts: o.Hosts, origins: o.Origins, cross: http.NewCrossOriginProtection()}
	for _, origin := range o.Origins {
		if origin == "*" {
			continue
		}
		if err := wb.cross.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("origin %q: %w, want scheme://host[:port]", origin, err)
		}
	}
	return wb, nil
}

// check refuses what another site's page may have sent.
func (wb *web) check(r *http.Request) error {
	if !wb.guarded {
		return nil
	}
	if !wb.ownHost(r.Host) {
		return forbidden("Host is %q, which may be anybody's name for this address: ask by address or as localhost, or have the gateway started with --hosts", r.Host)
	}
	if wb.allowed(r.Header.Get("Origin")) {
		return wb.contentType(r)
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return forbidden("the request was made by a page of another site (Sec-Fetch-Site: %s); --cors-origins may let it in", site)
	}
	if err := wb.cross.Check(r); err != nil {
		return forbidden("the request was made by a page of another site (Origin: %s); --cors-origins may let it in", r.Header.Get("Origin"))
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameHost(origin, r.Host) {
		return forbidden("the request was made by a page of another site (Origin: %s); --cors-origins may let it in", origin)
	}
	return wb.contentType(r)
}

// contentType refuses bodies in the forms that a page may send without asking first.
func (wb *web) contentType(r *http.Request) error {
	if r.ContentLength == 0 || r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json") || kind == "multipart/form-data" && r.URL.Path == "/v1/files") {
		return nil
	}
	return &requestError{
		status: http.StatusUnsupportedMediaType, code: "unsupported_media_type",
		message: fmt.Sprintf("Content-Type is %q, want application/json: a gateway without tokens takes no other, for any page may send those", r.Header.Get("Content-Type")),
	}
}

// ownHost reports whether a name can't be one that a stranger pointed here (DNS rebinding): that takes a name with a dot.
func (wb *web) ownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && !strings.Contains(host, ".") || strings.HasSuffix(strings.ToLower(host), ".localhost") ||
		slices.ContainsFunc(wb.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, host)
}

func (wb *web) allowed(origin string) bool {
	return origin != "" && (slices.Contains(wb.origins, origin) || slices.Contains(wb.origins, "*"))
}

// cors answers a preflight, and lets pages of the origins that may read the answer. It reports whether r is answered.
func (wb *web) cors(w http.ResponseWriter, r *http.Request) bool {
	if len(wb.origins) == 0 {
		return false
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !wb.allowed(origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", requestHeader+", Retry-After")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", cmp.Or(r.Header.Get("Access-Control-Request-Headers"), "Authorization, Content-Type"))
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func forbidden(format string, args ...any) error {
	return &requestError{status: http.StatusForbidden, code: "forbidden", message: fmt.Sprintf(format, args...)}
}
