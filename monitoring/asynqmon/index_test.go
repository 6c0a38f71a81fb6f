package asynqmon

import (
	"strings"
	"testing"
)

// TestAnotherUpstream: a page that is not the one the rules were written for is refused at start.
func TestAnotherUpstream(t *testing.T) {
	t.Parallel()
	const page = `<head><link rel="stylesheet" href="https://fonts.example/css"/><script>window.FLAG_READ_ONLY="true"</script></head><body></body>`
	x, err := newIndex(page, `/"><script>`, "false")
	if err != nil || strings.Contains(x.html, "fonts.example") || !strings.Contains(x.html, `FLAG_READ_ONLY="false"`) {
		t.Errorf("%s, %v", x.html, err)
	}
	if strings.Contains(x.html, `"><script>`) {
		t.Error("the way home is not escaped")
	}
	for name, page := range map[string]string{
		"a foreign script": strings.Replace(page, "<body>", `<body><script src="//cdn.example/x.js"></script>`, 1),
		"no flag":          strings.ReplaceAll(page, "FLAG_READ_ONLY", "FLAG"),
		"no body":          strings.ReplaceAll(page, "body", "div"),
	} {
		if _, err := newIndex(page, "/", "true"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
