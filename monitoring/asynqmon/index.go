package asynqmon

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
)

// An index is the page's HTML with what it may load.
type index struct {
	html   string
	policy string
}

var (
	// Fonts and icons of another host: broken without a network, and a visit that others need not know of.
	foreignLinks = regexp.MustCompile(`<link[^>]*href="(?:https?:)?//[^"]*"[^>]*>`)
	// The manifest is fetched without cookies, so a login answers it.
	manifestLink = regexp.MustCompile(`<link[^>]*rel="manifest"[^>]*>`)
	readOnlyFlag = regexp.MustCompile(`window\.FLAG_READ_ONLY="(?:true|false)"`)
	inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)
	anyForeign   = regexp.MustCompile(`(?:href|src)="(?:https?:)?//`)
)

// newIndex makes a page of upstream's: without other hosts, with a way back home, and with the buttons that change
// something only if readOnly is "false". The policy allows its inline scripts by their digests, so that no other
// script runs, and nothing from elsewhere is loaded whatever a script asks for.
func newIndex(page, home, readOnly string) (index, error) {
	page = foreignLinks.ReplaceAllString(page, "")
	page = manifestLink.ReplaceAllString(page, "")
	switch {
	case anyForeign.MatchString(page):
		return index{}, errors.New("it loads something from another host")
	case !readOnlyFlag.MatchString(page):
		return index{}, errors.New("it has no FLAG_READ_ONLY")
	case !strings.Contains(page, "</body>"):
		return index{}, errors.New("it has no end of body")
	}
	page = readOnlyFlag.ReplaceAllString(page, `window.FLAG_READ_ONLY="`+readOnly+`"`)
	page = strings.Replace(page, "</body>", back(home)+"</body>", 1)
	var digests []string
	for _, m := range inlineScript.FindAllStringSubmatch(page, -1) {
		sum := sha256.Sum256([]byte(m[1]))
		digests = append(digests, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	policy := strings.Join([]string{
		"default-src 'none'",
		"script-src 'self' " + strings.Join(digests, " "),
		"style-src 'self' 'unsafe-inline'", // Material UI writes its styles into the page
		"img-src 'self' data:",
		"connect-src 'self'",
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; ")
	return index{html: page, policy: policy}, nil
}

// back is a link in a corner where upstream has nothing.
func back(home string) string {
	const style = "position:fixed;right:16px;bottom:16px;z-index:2000;padding:8px 14px;border-radius:18px;" +
		"background:#1f2937;color:#fff;font:500 14px system-ui,sans-serif;text-decoration:none;box-shadow:0 1px 4px #0006"
	return fmt.Sprintf(`<a href="%s" style="%s">← embedfleet</a>`, html.EscapeString(home), style)
}

func (x index) serve(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", x.policy)
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(x.html)) // the browser went away
}
