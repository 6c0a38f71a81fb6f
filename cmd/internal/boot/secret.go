package boot

import (
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	// fileSuffix turns the variable of a secret into that of the file which holds it.
	fileSuffix = "_FILE"
	// maxSecret bounds such a file, in bytes: keys and addresses are short, and /dev/zero is not one of them.
	maxSecret = 64 << 10
)

// lookup returns the value of the variable name, or for a secret the text of the file that name_FILE names,
// and the variable that decided. An empty value without an error is none.
func (e entry) lookup(getenv Getenv, name string) (origin, value string, err error) {
	value, _ = getenv(name)
	if !e.secret {
		return name, value, nil
	}
	file, _ := getenv(name + fileSuffix)
	switch {
	case file == "":
		return name, value, nil
	case value != "":
		return name + fileSuffix, "", fmt.Errorf("$%s is set too: which of them counts?", name)
	}
	value, err = readSecret(file)
	return name + fileSuffix, value, err
}

// readSecret returns the one line that the file holds. An empty file is as an empty variable, none: what a
// deployment does not use still has to be there for its mount. Errors name the file and never its content.
func readSecret(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > maxSecret {
		return "", fmt.Errorf("reading %s: more than %d bytes are no secret", name, maxSecret)
	}
	value := strings.TrimRight(string(text), "\r\n") // editors end a file with a new line
	if strings.ContainsAny(value, "\r\n") {
		return "", fmt.Errorf("reading %s: it has several lines, want one", name)
	}
	return value, nil
}

// fileHelp tells of the file in a flag's help.
func (e entry) fileHelp() string {
	if !e.secret {
		return ""
	}
	return ", or a file: $" + e.env[0] + fileSuffix
}
