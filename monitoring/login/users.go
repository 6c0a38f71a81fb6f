package login

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// A Role is what somebody may do.
type Role string

// The roles. An operator may do what a viewer may.
const (
	Viewer   Role = "viewer"   // reads
	Operator Role = "operator" // reads and acts
)

// maxName bounds the name of a user in bytes.
const maxName = 64

// tokenPrefix tells people, and scanners of repositories, what a token is.
const tokenPrefix = "efm_"

// A user is one line of the file.
type user struct {
	name   string
	role   Role
	secret secret
	digest [sha256.Size]byte // of the line; signs sessions, so that a change of the line ends them
}

// Users is what a file of users says. The zero value knows nobody.
type Users struct {
	people map[string]user            // by name, with a password
	tokens map[[sha256.Size]byte]user // by the token's digest
	proxy  map[string]user            // by the name that a proxy gives
}

// ParseUsers reads the form of the package's documentation. Its error names every bad line.
func ParseUsers(text string) (*Users, error) {
	u := &Users{people: map[string]user{}, tokens: map[[sha256.Size]byte]user{}, proxy: map[string]user{}}
	var problems []error
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if err := u.add(fields); err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return u, nil
}

// add reads the fields of one line. Secrets do not show in its error.
func (u *Users) add(fields []string) error {
	if len(fields) < 3 {
		return errors.New("want: user, token or proxy, a name, a role, and a secret")
	}
	kind, one := fields[0], user{name: fields[1], role: Role(fields[2])}
	one.digest = sha256.Sum256([]byte(strings.Join(fields, " ")))
	if err := checkName(one.name); err != nil && (kind != "proxy" || one.name != "*") {
		return err
	}
	if one.role != Viewer && one.role != Operator {
		return fmt.Errorf("role %q of %s: want %s or %s", one.role, one.name, Viewer, Operator)
	}
	want := map[string]int{"user": 4, "token": 4, "proxy": 3}[kind]
	if want != len(fields) {
		return fmt.Errorf("a line of %q has %d fields, not %d", kind, want, len(fields))
	}
	switch kind {
	case "user":
		return u.addPerson(one, fields[3])
	case "token":
		return u.addToken(one, fields[3])
	default:
		if _, twice := u.proxy[one.name]; twice {
			return fmt.Errorf("proxy user %s is there twice", one.name)
		}
		u.proxy[one.name] = one
		return nil
	}
}

func (u *Users) addPerson(one user, hash string) error {
	var err error
	if one.secret, err = parseSecret(hash); err != nil {
		return fmt.Errorf("password of %s: %w", one.name, err)
	}
	if _, twice := u.people[one.name]; twice {
		return fmt.Errorf("user %s is there twice", one.name)
	}
	u.people[one.name] = one
	return nil
}

func (u *Users) addToken(one user, hash string) error {
	digits, ok := strings.CutPrefix(hash, "sha256:")
	key, err := hex.DecodeString(digits)
	if !ok || err != nil || len(key) != sha256.Size {
		return fmt.Errorf("token of %s: want sha256: and 64 hex digits, as the command token prints it", one.name)
	}
	if _, twice := u.tokens[[sha256.Size]byte(key)]; twice {
		return fmt.Errorf("token of %s is another's too", one.name)
	}
	u.tokens[[sha256.Size]byte(key)] = one
	return nil
}

// checkName keeps names to what reads well in a log and a cookie.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a name has 1 to %d characters, not %d", maxName, len(name))
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"$,:;<>\|*`, r) {
			return fmt.Errorf("name %q: letters, digits and . - _ @ + are taken", name)
		}
	}
	return nil
}

// NewToken makes a token for a program and its line in the file. The token is nowhere else.
func NewToken(name string, role Role) (token, line string, err error) {
	if err := checkName(name); err != nil {
		return "", "", err
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails, see crypto/rand
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	return token, fmt.Sprintf("token %s %s sha256:%x", name, role, sha256.Sum256([]byte(token))), nil
}

// NewPassword makes a person's line in the file.
func NewPassword(name string, role Role, password string) (line string, err error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	hash, err := HashPassword(password)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("user %s %s %s", name, role, hash), nil
}

// lookEvery is how often the file is looked at for a change.
const lookEvery = 2 * time.Second

// A file is a file of users that may change while it is used.
type file struct {
	log  *slog.Logger
	path string

	mu     sync.Mutex
	users  *Users
	looked time.Time
	stamp  time.Time // of the version in force, or of the bad one that was refused
	size   int64
}

// openFile reads the file for the first time.
func openFile(log *slog.Logger, path string) (*file, error) {
	f := &file{log: log, path: path, looked: time.Now()}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the users: %w", err)
	}
	f.stamp, f.size = info.ModTime(), info.Size()
	f.users, err = f.read()
	f.warn(info)
	return f, err
}

// warn tells of a file that others may read: it has digests of passwords and tokens.
func (f *file) warn(info os.FileInfo) {
	if mode := info.Mode().Perm(); mode&0o044 != 0 {
		f.log.Warn("the file of users may be read by others", "file", f.path, "mode", mode.String())
	}
}

func (f *file) read() (*Users, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("reading the users: %w", err)
	}
	users, err := ParseUsers(string(text))
	if err != nil {
		return nil, fmt.Errorf("reading the users from %s: %w", f.path, err)
	}
	return users, nil
}

// current returns the users in force. A file that went away or can't be read changes nothing: nobody is let
// in or thrown out by an editor's half-written version.
func (f *file) current() *Users {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < lookEvery {
		return f.users
	}
	f.looked = time.Now()
	info, err := os.Stat(f.path)
	if err != nil || info.ModTime().Equal(f.stamp) && info.Size() == f.size {
		return f.users
	}
	f.stamp, f.size = info.ModTime(), info.Size()
	f.warn(info)
	users, err := f.read()
	if err != nil {
		f.log.Warn("the changed file of users can't be read, the old one stays in force", "err", err)
		return f.users
	}
	f.users = users
	f.log.Info("the file of users has changed", "users", len(users.people), "tokens", len(users.tokens))
	return users
}
