package queuetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// flavours are the servers that must do, and how each says what it is.
var flavours = []struct{ name, version string }{
	{"Redis 6.2", "Redis server v=6.2."}, // the oldest with all commands that asynq needs
	{"Redis 7", "Redis server v=7."},
	{"Redis 8", "Redis server v=8."},
	{"Valkey", "Valkey server v="},
	{"KeyDB", "KeyDB server v="},
}

// Flavours runs those tests of a package that talk to a server, as the pattern names them and at least so many, on
// every other server that this machine has: those in PATH, and those in the cache's folder redis, one folder for each.
// What it has not is named. The builds there may lack TLS.
func Flavours(t *testing.T, pattern string, atLeast int) {
	t.Helper()
	if os.Getenv("REDIS_SERVER") != "" { //nolint:forbidigo // as testkit reads it
		t.Skip("REDIS_SERVER names the one server to test on")
	}
	servers := localServers(t)
	for _, f := range flavours {
		t.Run(f.name, func(t *testing.T) {
			var bin string
			for path, version := range servers {
				if strings.HasPrefix(version, f.version) {
					bin = path
				}
			}
			if bin == "" {
				t.Skipf("no server that says %q, neither in PATH nor in the cache", f.version)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.short", "-test.run", pattern, "-test.v", "-test.timeout", "5m") //nolint:gosec // these very tests
			cmd.Env = append(os.Environ(), "REDIS_SERVER="+bin)                                                                        //nolint:forbidigo // passed on to a child of the tests
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", servers[bin], err, out)
			}
			passed := strings.Count("\n"+string(out), "\n--- PASS: ")
			if passed < atLeast {
				t.Errorf("%s: only %d tests ran", servers[bin], passed)
			}
			version, _, _ := strings.Cut(servers[bin], " sha")
			t.Logf("%s: %d tests passed", version, passed)
		})
	}
}

// localServers returns the servers of this machine, with what they say of themselves.
func localServers(t *testing.T) map[string]string {
	t.Helper()
	var paths []string
	for _, name := range []string{"redis-server", "valkey-server", "keydb-server"} {
		if path, err := exec.LookPath(name); err == nil {
			paths = append(paths, path)
		}
	}
	cache := os.Getenv("EMBEDFLEET_CACHE") //nolint:forbidigo // as testkit reads it
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "embedfleet")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "redis", "*", "*-server")) // the pattern is valid
	servers := map[string]string{}
	for _, path := range append(paths, found...) {
		out, err := exec.CommandContext(t.Context(), path, "--version").Output() //nolint:gosec // a server of this machine
		if err != nil {
			t.Logf("%s does not run here: %v", filepath.Base(path), err)
			continue
		}
		servers[path] = string(out)
	}
	return servers
}
