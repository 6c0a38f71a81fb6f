package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
)

const (
	// healthWait bounds one probe: less than what container runtimes give a health check by default.
	healthWait = 5 * time.Second
	maxAnswer  = 4 << 10 // bytes of an answer that are shown
)

// NewHealth returns the command health, which asks the process that serves its probes on this machine, or in
// this container, whether it is well, and fails if it is not: the health check of an image that holds
// nothing but the binary. The flag, its default and its
// options are those by which the binary itself chooses the address.
func NewHealth(flag, address string, out io.Writer, getenv Getenv, opts ...Option) *cobra.Command {
	var (
		ready bool
		at    string
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "ask the running process whether it is well; status 1 if not",
		Args:  NoArgs,
	}
	c := New(cmd.Flags())
	c.String(&at, flag, address, "where the process serves /livez and /readyz", opts...)
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it takes work (/readyz), not just whether it lives (/livez)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.Resolve(getenv); err != nil {
			return err
		}
		path := "/livez"
		if ready {
			path = "/readyz"
		}
		target, err := reachable(at)
		if err != nil {
			return Usagef("--%s: %w", flag, err)
		}
		return probe(cmd.Context(), "http://"+target+path, out)
	}
	return cmd
}

// reachable is the address at which a process that listens on hostPort is reached from its own machine:
// "every address" is served on the loopback too.
func reachable(hostPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}

// probe asks once and prints the answer's text.
func probe(ctx context.Context, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	// No proxy: the process is on this machine, whatever the environment says of others.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking the process: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	text = bytes.TrimSpace(text)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, resp.Status, text)
	}
	fmt.Fprintf(out, "%s\n", text)
	return nil
}
