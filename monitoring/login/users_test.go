package login

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// A cheap line, so that tests of everything but the cost do not pay it: the password is "correct horse".
const cheap = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$"

func cheapLine(t *testing.T, name, role, password string) string {
	t.Helper()
	s := secret{memory: 8, time: 1, threads: 1, salt: []byte("saltsaltsalt"), key: make([]byte, 32)}
	return "user " + name + " " + role + " " + cheap + keyOf(s, password)
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseSecret(hash)
	if err != nil {
		t.Fatal(err)
	}
	if s.memory != 19*1024 || s.time != 2 {
		t.Errorf("costs are m=%d,t=%d", s.memory, s.time)
	}
	if !s.matches("correct horse") || s.matches("correct horsf") || s.matches("") {
		t.Error("a password is not told from another")
	}
	again, err := HashPassword("correct horse")
	if err != nil || again == hash {
		t.Errorf("two lines of one password are alike, so the salt is not random (%v)", err)
	}
	for _, bad := range []string{"", "short", strings.Repeat("x", MaxPassword+1)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("a password of %d characters is taken", len(bad))
		}
	}
}

func TestParseUsers(t *testing.T) {
	t.Parallel()
	line := cheapLine(t, "ann", "operator", "correct horse")
	_, token, err := NewToken("ci", Viewer)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		problems   []string // none: valid
	}{
		{"all kinds", "# people\n" + line + "  # she\n\n" + token + "\nproxy bob operator\nproxy * viewer\n", nil},
		{"no final newline", line, nil},
		{"empty", "", nil},
		{"every bad line is named", "nonsense\n" + line + "\nuser x y z\n", []string{"line 1", "line 3", `role "y"`}},
		{"unknown kind", "group ann operator", []string{`"group"`}},
		{"twice", line + "\n" + line, []string{"line 2", "twice"}},
		{"proxy twice", "proxy a viewer\nproxy a viewer", []string{"twice"}},
		{"token twice", token + "\n" + token, []string{"another's"}},
		{"another hash", "user ann operator $2a$10$abcdefghijklmnopqrstuv", []string{"argon2id"}},
		{"unbounded cost", "user ann operator $argon2id$v=19$m=99999999,t=2,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", []string{"at most"}},
		{"other version", "user ann operator $argon2id$v=16$m=8,t=2,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", []string{"version"}},
		{"short token", "token ci viewer sha256:abcd", []string{"64 hex digits"}},
		{"bad name", "user a$b viewer " + cheap, []string{`"a$b"`}},
		{"too many fields", line + " more", []string{"4 fields, not 5"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseUsers(tt.text)
			if (err != nil) != (tt.problems != nil) {
				t.Fatalf("error = %v", err)
			}
			for _, want := range tt.problems {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// TestSecretsStayOutOfErrors gives lines whose secrets are bad and looks for them in the error.
func TestSecretsStayOutOfErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"user ann operator hunter2", "token ci viewer hunter2", "user ann boss hunter2"} {
		if _, err := ParseUsers(text); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add("user ann operator $argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA\n")
	f.Add("token ci viewer sha256:" + strings.Repeat("0", 64))
	f.Add("proxy * viewer # all\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUsers(text)
		if err != nil {
			return
		}
		for name, one := range u.people {
			if name == "" || one.role != Viewer && one.role != Operator || one.secret.memory > maxArgonMemory {
				t.Errorf("taken: %q %q with %d KiB", name, one.role, one.secret.memory)
			}
		}
	})
}

// TestOpenModes: a file that others may read is told of.
func TestOpenModes(t *testing.T) {
	t.Parallel()
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: true, 0o604: true} {
		path := filepath.Join(t.TempDir(), "users")
		if err := os.WriteFile(path, []byte(cheapLine(t, "ann", "operator", "correct horse")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if _, err := openFile(slog.New(slog.NewTextHandler(&b, nil)), path); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "may be read by others"); got != want {
			t.Errorf("mode %v: %s", mode, b.String())
		}
	}
}

func TestTheFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users")
	write := func(text string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write(cheapLine(t, "ann", "operator", "correct horse"), time.Hour)
	f, err := openFile(testkit.Logger(t), path)
	if err != nil {
		t.Fatal(err)
	}
	roles := func() (roles string) {
		f.looked = time.Time{} // the pause between two looks is over
		for _, u := range f.current().people {
			roles += string(u.role)
		}
		return roles
	}
	write(cheapLine(t, "ann", "viewer", "correct horse"), time.Minute)
	if got := roles(); got != "viewer" {
		t.Errorf("after a change: %q", got)
	}
	write("half a li", time.Second)
	if got := roles(); got != "viewer" {
		t.Errorf("after a bad version: %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := roles(); got != "viewer" {
		t.Errorf("after the file went: %q", got)
	}
	write("", 0)
	if got := roles(); got != "" {
		t.Errorf("after everybody was removed: %q", got)
	}
	if _, err := openFile(testkit.Logger(t), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file is no error at the start")
	}
}
