package login

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// The cost of one password by argon2id: OWASP's second choice, 19 MiB and some 30 ms. Lines with other costs,
// within the bounds below, are honoured.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	saltBytes    = 16
	keyBytes     = 32

	maxArgonMemory = 256 * 1024 // KiB; a line can't make one attempt cost more
	maxArgonTime   = 16

	// MinPassword and MaxPassword bound a password, the first in characters, the second in bytes.
	MinPassword = 10
	MaxPassword = 1024
)

// HashPassword returns what stands for a password in the file of users, in the PHC form that other tools
// write as well.
func HashPassword(password string) (string, error) {
	if n := utf8.RuneCountInString(password); n < MinPassword {
		return "", fmt.Errorf("the password has %d characters, at least %d are needed", n, MinPassword)
	}
	if len(password) > MaxPassword {
		return "", fmt.Errorf("the password has %d bytes, at most %d are taken", len(password), MaxPassword)
	}
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails, see crypto/rand
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, keyBytes)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		b64(salt), b64(key)), nil
}

// A secret is a parsed line of [HashPassword].
type secret struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// parseSecret reads the PHC form, strictly.
func parseSecret(s string) (secret, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return secret{}, errors.New("want $argon2id$v=19$m=...,t=...,p=...$salt$key, as the command password prints it")
	}
	if want := fmt.Sprintf("v=%d", argon2.Version); parts[2] != want {
		return secret{}, fmt.Errorf("argon2 version %q, want %q", parts[2], want)
	}
	var out secret
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &out.memory, &out.time, &out.threads); err != nil || n != 3 {
		return secret{}, fmt.Errorf("argon2 costs %q: want m, t and p with their numbers", parts[3])
	}
	if out.memory < 8*uint32(out.threads) || out.memory > maxArgonMemory || out.time < 1 || out.time > maxArgonTime || out.threads < 1 {
		return secret{}, fmt.Errorf("argon2 costs %q: at most m=%d,t=%d", parts[3], maxArgonMemory, maxArgonTime)
	}
	var err error
	if out.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(out.salt) < 8 {
		return secret{}, errors.New("the salt is no base64 of at least 8 bytes")
	}
	if out.key, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(out.key) < 16 {
		return secret{}, errors.New("the key is no base64 of at least 16 bytes")
	}
	return out, nil
}

// matches compares in constant time.
func (s secret) matches(password string) bool {
	if len(password) > MaxPassword {
		return false
	}
	key := argon2.IDKey([]byte(password), s.salt, s.time, s.memory, s.threads, uint32(len(s.key)))
	return subtle.ConstantTimeCompare(key, s.key) == 1
}

// nobody is compared with when a name is unknown, so that the answer takes as long as for one that is known.
func nobody() secret {
	return secret{memory: argonMemory, time: argonTime, threads: argonThreads, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
}
