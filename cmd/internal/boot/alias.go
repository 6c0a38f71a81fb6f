package boot

import (
	"path/filepath"
	"strings"
)

// Alias draws a model's name in the fleet from its folder or repository id: the last element in lower case,
// with every character that an alias can't hold replaced by a hyphen. It may still be no valid alias (a
// folder called "---"); tasks.CheckModel is the judge.
func Alias(model string) string {
	model, _, _ = strings.Cut(model, "@") // a revision, which may have slashes of its own
	if abs, err := filepath.Abs(model); err == nil {
		model = abs // "." has a name too
	}
	name := strings.ToLower(filepath.Base(model))
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, name)
	return strings.Trim(name, "-._")
}
