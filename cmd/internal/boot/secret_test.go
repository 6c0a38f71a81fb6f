package boot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "redis://:hunter2@redis:6379\n")
	for _, tt := range []struct {
		name    string
		env     map[string]string
		args    []string
		want    string
		problem string
	}{
		{"file", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": good}, nil, "redis://:hunter2@redis:6379", ""},
		{"file of another name for it", map[string]string{"REDIS_URL_FILE": good}, nil, "redis://:hunter2@redis:6379", ""},
		{"flag first", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": good}, []string{"--redis-url", "redis://x"}, "redis://x", ""},
		{"both", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": good, "EMBEDFLEET_REDIS_URL": "redis://x"}, nil, "", "$EMBEDFLEET_REDIS_URL is set too"},
		{"missing", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": dir + "/none"}, nil, "", dir + "/none"},
		{"folder", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": dir}, nil, "", dir},
		{"empty", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": file("empty", "\n")}, nil, "redis://localhost", ""},
		{"lines", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": file("lines", "hunter2\nhunter3\n")}, nil, "", "several lines"},
		{"long", map[string]string{"EMBEDFLEET_REDIS_URL_FILE": file("long", strings.Repeat("hunter2", 10_000))}, nil, "", "65536 bytes"},
		{"not for what is no secret", map[string]string{"EMBEDFLEET_COUNT_FILE": good}, nil, "redis://localhost", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _, err := resolve(t, tt.args, tt.env)
			if tt.problem == "" {
				if err != nil || s.url != tt.want {
					t.Errorf("got %q, %v", s.url, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.problem) || strings.Contains(err.Error(), "hunter") {
				t.Errorf("error %v, want one with %q and no secret", err, tt.problem)
			}
		})
	}
}
