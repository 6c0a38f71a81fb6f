package deploy_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

// load reads docker-compose.yml as Compose does: anchors, variables, schema, consistency, every profile.
func load(t testing.TB, env ...string) *types.Project {
	t.Helper()
	file := filepath.Join(testkit.Root(t), "docker-compose.yml")
	opts, err := cli.NewProjectOptions([]string{file}, cli.WithEnv(env), cli.WithProfiles([]string{"*"}),
		cli.WithDiscardEnvFile, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := opts.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// ours are the services whose image is built here, by name.
func ours(project *types.Project) map[string]types.ServiceConfig {
	list := maps.Clone(project.Services)
	maps.DeleteFunc(list, func(_ string, s types.ServiceConfig) bool { return s.Build == nil })
	return list
}

func TestServicesAreHardened(t *testing.T) {
	t.Parallel()
	project := load(t)
	for name, s := range project.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged ||
			!slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.PidsLimit == 0 {
			t.Errorf("%s is not hardened: %+v", name, s)
		}
		if s.Build != nil && s.User != "10001:10001" {
			t.Errorf("%s runs as %q", name, s.User)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s: its log grows without bound", name)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to %q", name, p.Published, p.HostIP)
			}
		}
		if s.Build == nil && !regexp.MustCompile(`:v?[0-9]+\.[0-9]+`).MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		for key, value := range s.Environment {
			if value != nil && regexp.MustCompile(`(?i)(password|token|_key|secret)$`).MatchString(key) && !strings.HasPrefix(*value, "/run/secrets/") {
				t.Errorf("%s: %s is a secret in the environment", name, key)
			}
		}
	}
	if _, open := project.Services["redis"].Networks["outside"]; open || len(project.Services["redis"].Ports) > 0 {
		t.Error("Redis can be reached from outside")
	}
}

// Everything that goes on has a health check, is started again, and depends on a healthy Redis.
func TestServicesAreWatched(t *testing.T) {
	t.Parallel()
	project := load(t)
	for name, s := range project.Services {
		if name == "prepare" {
			continue // ends by itself
		}
		if s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 || s.HealthCheck.Timeout == nil || s.HealthCheck.StartPeriod == nil {
			t.Errorf("%s: no complete health check", name)
		}
		if s.Restart == "" || s.StopGracePeriod == nil || s.MemLimit == 0 {
			t.Errorf("%s: restart %q, grace %v, memory %d", name, s.Restart, s.StopGracePeriod, s.MemLimit)
		}
		if s.Build != nil && s.DependsOn["redis"].Condition != types.ServiceConditionHealthy {
			t.Errorf("%s does not wait for Redis", name)
		}
	}
	worker := project.Services["worker"]
	if worker.DependsOn["prepare"].Condition != types.ServiceConditionCompletedSuccessfully {
		t.Error("workers do not wait for the model")
	}
	// The worker counts its crashes itself, in a file that no other replica has and that outlives a restart.
	if file := worker.Environment["EMBEDFLEET_RESTART_FILE"]; worker.Restart != "unless-stopped" || file == nil ||
		!slices.ContainsFunc(worker.Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Source == "" && v.Target == filepath.Dir(*file)
		}) {
		t.Errorf("worker: restart %q, and crashes are counted in %v", worker.Restart, file)
	}
	// Tasks get the grace, and closing the engine as much again.
	grace, err := time.ParseDuration(*worker.Environment["EMBEDFLEET_GRACE"])
	if patience := time.Duration(*worker.StopGracePeriod); err != nil || patience < 2*grace+5*time.Second {
		t.Errorf("worker: killed after %v, may need 2 x %v, %v", patience, grace, err)
	}
	if scheduler := project.Services["scheduler"]; scheduler.GetScale() != 2 {
		t.Errorf("%d schedulers, want two", scheduler.GetScale())
	}
}

func TestWorkersScale(t *testing.T) {
	t.Parallel()
	worker := load(t, "WORKERS=7").Services["worker"]
	if worker.GetScale() != 7 || worker.ContainerName != "" || len(worker.Ports) > 0 {
		t.Errorf("a name or a port of the host is there only once: %+v", worker)
	}
	prepare := load(t).Services["prepare"]
	for _, v := range prepare.Volumes {
		if !slices.ContainsFunc(worker.Volumes, func(w types.ServiceVolumeConfig) bool { return w.Source == v.Source && w.Target == v.Target }) {
			t.Errorf("workers look into %v, the model is prepared in %v", worker.Volumes, prepare.Volumes)
		}
	}
	if *worker.Environment["MODEL"] != *prepare.Environment["MODEL"] {
		t.Error("workers load another model than the one that is prepared")
	}
}

// Redis's own limit is below its container's by what forks and clients need.
func TestRedisFits(t *testing.T) {
	t.Parallel()
	redis := load(t).Services["redis"]
	i := slices.Index(redis.Command, "--maxmemory")
	limit, err := units.RAMInBytes(redis.Command[i+1])
	if err != nil || float64(limit)*1.4 > float64(redis.MemLimit) {
		t.Errorf("maxmemory %d in %d, %v", limit, redis.MemLimit, err)
	}
	conf := read(t, "deploy", "redis.conf")
	for _, line := range []string{"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} {
		if !strings.Contains(conf, "\n"+line+"\n") {
			t.Errorf("redis.conf lacks %q", line)
		}
	}
}

// .env.example has each variable of the file with its default, and no other.
func TestEnvExample(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+):-([^}]*)\}`).FindAllStringSubmatch(read(t, "docker-compose.yml"), -1) {
		if old, seen := want[m[1]]; seen && old != m[2] {
			t.Errorf("%s has two defaults, %q and %q", m[1], old, m[2])
		}
		want[m[1]] = m[2]
	}
	delete(want, "EMBEDFLEET_TAG") // for who builds, see the Dockerfile
	got := map[string]string{}
	for line := range strings.Lines(read(t, ".env.example")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			got[name] = value
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf(".env.example has %v\ndocker-compose.yml has %v", got, want)
	}
}

// secrets.sh makes the file of every secret, twice the same, and no service is given one that it does not name.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "secrets")
	makeSecrets(t, dir)
	first := snapshot(t, dir)
	makeSecrets(t, dir)
	if again := snapshot(t, dir); !maps.Equal(first, again) {
		t.Error("the second run changed something")
	}
	project := load(t)
	for name, s := range project.Secrets {
		if filepath.Dir(s.File) != filepath.Join(testkit.Root(t), "secrets") {
			t.Errorf("%s is in %s", name, s.File)
		}
		if _, ok := first[filepath.Base(s.File)]; !ok {
			t.Errorf("secrets.sh does not make %s", name)
		}
	}
	if !strings.Contains(read(t, ".dockerignore"), "\n/secrets/\n") || !strings.Contains(read(t, ".gitignore"), "/secrets/\n") {
		t.Error("secrets/ may end in an image or in the repository")
	}
	used := regexp.MustCompile(`/run/secrets/([a-z_]+)`)
	for name, s := range project.Services {
		var given []string
		for _, secret := range s.Secrets {
			given = append(given, secret.Source)
		}
		text := strings.Join(s.Command, " ")
		for _, value := range s.Environment {
			text += " " + *value
		}
		var named []string
		for _, m := range used.FindAllStringSubmatch(text, -1) {
			named = append(named, m[1])
		}
		slices.Sort(given)
		slices.Sort(named)
		if !slices.Equal(given, named) {
			t.Errorf("%s is given %v and names %v", name, given, named)
		}
	}
	if err := os.Remove(filepath.Join(dir, "redis_url")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(script(t), dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "belong together") {
		t.Errorf("half of a pair: %v %s", err, out)
	}
}

func script(t testing.TB) string { return filepath.Join(testkit.Root(t), "deploy", "secrets.sh") }

func makeSecrets(t testing.TB, dir string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), script(t), dir).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v %s", err, out)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s is open to others: %v %v", dir, info.Mode(), err)
	}
}

func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}
