package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
	"github.com/embedfleet/embedfleet/monitoring/login"
)

// newPassword prints a line for the file of users. The password comes from the terminal, unseen, or from
// standard input: on the command line every user of the machine could read it.
func newPassword(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "password NAME [viewer|operator]",
		Short: "ask for a password and print a user's line for --users",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			role, err := parseRole(args)
			if err != nil {
				return err
			}
			password, err := s.readPassword()
			if err != nil {
				return err
			}
			line, err := login.NewPassword(args[0], role, password)
			if err != nil {
				return boot.Usagef("%w", err)
			}
			fmt.Fprintln(s.out, line)
			return nil
		},
	}
}

// newToken prints a program's token, and its line on standard output, so that >> users takes the line only.
func newToken(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "token NAME [viewer|operator]",
		Short: "make a token for a program; print it on standard error and its line for --users on standard output",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			role, err := parseRole(args)
			if err != nil {
				return err
			}
			token, line, err := login.NewToken(args[0], role)
			if err != nil {
				return boot.Usagef("%w", err)
			}
			fmt.Fprintln(s.err, token)
			fmt.Fprintln(s.out, line)
			return nil
		},
	}
}

func parseRole(args []string) (login.Role, error) {
	if len(args) < 2 {
		return login.Viewer, nil
	}
	role := login.Role(args[1])
	if role != login.Viewer && role != login.Operator {
		return "", boot.Usagef("role %q: want %s or %s", role, login.Viewer, login.Operator)
	}
	return role, nil
}

func (s streams) readPassword() (string, error) {
	if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return s.askPassword(int(f.Fd()))
	}
	line, err := bufio.NewReader(io.LimitReader(s.in, 2*login.MaxPassword)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func (s streams) askPassword(fd int) (string, error) {
	var typed [2]string
	for i, prompt := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(s.err, prompt)
		text, err := term.ReadPassword(fd)
		fmt.Fprintln(s.err)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		typed[i] = string(text)
	}
	if typed[0] != typed[1] {
		return "", boot.Usagef("the two passwords differ")
	}
	return typed[0], nil
}
