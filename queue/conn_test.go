package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		address string
		addrs   string
		user    string
		pass    string
		db      int
		master  string
		cluster bool
		tls     string // server name
		shown   string
	}{
		{address: "redis://localhost", addrs: "localhost:6379", shown: "redis://localhost:6379/0"},
		{address: "redis://h:7000/3", addrs: "h:7000", db: 3, shown: "redis://h:7000/3"},
		{address: "redis://h?db=4", addrs: "h:6379", db: 4, shown: "redis://h:6379/4"},
		{address: "redis://:secret@h", addrs: "h:6379", pass: "secret", shown: "redis://:***@h:6379/0"},
		{address: "redis://ann:s%40cr%2Fet@h:1/0", addrs: "h:1", user: "ann", pass: "s@cr/et", shown: "redis://ann:***@h:1/0"},
		{address: "redis://ann@h", addrs: "h:6379", user: "ann", shown: "redis://ann@h:6379/0"},
		{address: "redis://[::1]", addrs: "[::1]:6379", shown: "redis://[::1]:6379/0"},
		{address: "redis://[::1]:7", addrs: "[::1]:7", shown: "redis://[::1]:7/0"},
		{address: "rediss://h:6380", addrs: "h:6380", tls: "h", shown: "rediss://h:6380/0"},
		{address: "rediss://10.0.0.1?tls_server_name=redis.internal", addrs: "10.0.0.1:6379", tls: "redis.internal",
			shown: "rediss://10.0.0.1:6379/0"},
		{address: "unix:///run/r.sock", addrs: "/run/r.sock", shown: "unix:///run/r.sock?db=0"},
		{address: "unix://u:secret@/run/r.sock?db=2", addrs: "/run/r.sock", user: "u", pass: "secret", db: 2,
			shown: "unix://u:***@/run/r.sock?db=2"},
		{address: "redis-sentinel://u:secret@a,b:2/main/5?sentinel_password=other", addrs: "a:26379,b:2", user: "u",
			pass: "secret", db: 5, master: "main", shown: "redis-sentinel://u:***@a:26379,b:2/main/5"},
		{address: "rediss-sentinel://a/main", addrs: "a:26379", master: "main", tls: "-",
			shown: "rediss-sentinel://a:26379/main/0"},
		{address: "redis-cluster://u:secret@a:1,b:2", addrs: "a:1,b:2", user: "u", pass: "secret", cluster: true,
			shown: "redis-cluster://u:***@a:1,b:2"},
		{address: "redis-cluster://a", addrs: "a:6379", cluster: true, shown: "redis-cluster://a:6379"},
	}
	for _, tt := range tests {
		c, err := Parse(tt.address)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.address, err)
			continue
		}
		o := c.opts
		if got := strings.Join(o.Addrs, ","); got != tt.addrs || o.Username != tt.user || o.Password != tt.pass ||
			o.DB != tt.db || o.MasterName != tt.master || o.IsClusterMode != tt.cluster {
			t.Errorf("Parse(%q) = %s user %q password %q db %d master %q cluster %v", tt.address, got, o.Username,
				o.Password, o.DB, o.MasterName, o.IsClusterMode)
		}
		if (o.TLSConfig != nil) != (tt.tls != "") {
			t.Errorf("Parse(%q): TLS %v", tt.address, o.TLSConfig != nil)
		} else if tt.tls != "" && tt.tls != "-" && o.TLSConfig.ServerName != tt.tls {
			t.Errorf("Parse(%q): server name %q, want %q", tt.address, o.TLSConfig.ServerName, tt.tls)
		}
		if got := c.String(); got != tt.shown {
			t.Errorf("Parse(%q) shows as %q, want %q", tt.address, got, tt.shown)
		}
	}
}

func TestParseSentinelPasswords(t *testing.T) {
	t.Parallel()
	c, err := Parse("redis-sentinel://u:one@h/main?sentinel_username=s&sentinel_password=two")
	if err != nil {
		t.Fatal(err)
	}
	if c.opts.Password != "one" || c.opts.SentinelUsername != "s" || c.opts.SentinelPassword != "two" {
		t.Errorf("passwords %q and %q of %q", c.opts.Password, c.opts.SentinelPassword, c.opts.SentinelUsername)
	}
}

func TestParseKindsOfClients(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"redis://h":              "*redis.Client",
		"unix:///s":              "*redis.Client",
		"redis-cluster://h":      "*redis.ClusterClient",
		"redis-sentinel://h/one": "*redis.Client",
	} {
		c, err := Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		client := c.Client()
		if got := fmt.Sprintf("%T", client); got != want {
			t.Errorf("%s gives a %s, want %s", address, got, want)
		}
		_ = client.Close()
	}
}

// Every message must name what is wrong, and none may quote what could be the password.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ address, want string }{
		{"localhost:6379", "no scheme"},
		{"http://h", `scheme "http" is not known`},
		{"redis://", "no host"},
		{"redis://h:0", "not a number from 1 to 65535"},
		{"redis://user:hunter2", "not a number from 1 to 65535"},
		{"redis://:hun/ter2@h", "percent-encode"},
		{"redis://:hunter2%zz@h", "not well percent-encoded"},
		{"redis://:hunter2@h/x", "database is not a number"},
		{"redis://:hunter2@h/1?db=2", "at most one database"},
		{"redis://:hunter2@h?dbb=1", `no parameter "dbb"`},
		{"redis://h?db=1&db=2", `"db" is given 2 times`},
		{"redis://a,b", "more than one host"},
		{"redis://::1", "IPv6 addresses in brackets"},
		{"redis://h?tls_insecure=true", "needs TLS"},
		{"rediss://h?tls_insecure=perhaps", "want true or false"},
		{"rediss://h?tls_ca=/nowhere/ca.pem", "reading tls_ca"},
		{"unix://", "absolute path"},
		{"unix://h/s", "absolute path"},
		{"redissunix:///s", "is not known"},
		{"redis-sentinel://:hunter2@h", "no master's name"},
		{"redis-cluster://:hunter2@h/1", "no numbered databases"},
	}
	for _, tt := range tests {
		c, err := Parse(tt.address)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", tt.address, c)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q): %v, want it to contain %q", tt.address, err, tt.want)
		}
		if s := err.Error(); strings.Contains(s, "hunter2") || strings.Contains(s, "ter2") {
			t.Errorf("Parse(%q) shows the password: %v", tt.address, err)
		}
	}
}

func TestConnNeverShowsItsPassword(t *testing.T) {
	t.Parallel()
	c, err := Parse("redis-sentinel://u:hunter2@h/m?sentinel_password=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v %+v %#v %s %q", c, c, c, c, c)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "conn", c)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "conn", c)
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("password shown: %s", b.String())
	}
	if n := strings.Count(b.String(), "redis-sentinel://u:***@h:26379/m/0"); n != 7 {
		t.Errorf("address shown %d times, want 7: %s", n, b.String())
	}
}

func FuzzParse(f *testing.F) {
	f.Add("redis://u:p@h:1/2?db=3")
	f.Add("unix://u:p@/s?db=1")
	f.Add("rediss-sentinel://u:p@a,b:2/m/1?sentinel_password=x")
	f.Add("redis-cluster://[::1]:1,b")
	f.Add("redis://%")
	f.Fuzz(func(t *testing.T, address string) {
		if strings.Contains(address, "tls_ca") {
			t.Skip("would read a file")
		}
		c, err := Parse(address)
		if err == nil {
			if len(c.opts.Addrs) == 0 || c.String() == "" {
				t.Errorf("Parse(%q) = %v", address, c)
			}
		}
	})
}
