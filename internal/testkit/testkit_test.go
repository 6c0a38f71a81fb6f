package testkit

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) { VerifyMain(m) }

func TestRedisIsEmptyAndReal(t *testing.T) {
	t.Parallel()
	client := Redis(t)
	if n, err := client.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Fatalf("DBSize = %d, %v, want 0", n, err)
	}
	if v := client.ConfigGet(t.Context(), "appendonly").Val()["appendonly"]; v != "no" {
		t.Errorf("appendonly = %q, want no", v)
	}
}

func TestServerSurvivesKillAndStop(t *testing.T) {
	t.Parallel()
	s := RedisServer(t)
	client := s.Client()
	for _, end := range []func(){s.Kill, s.Stop} {
		if err := client.Incr(t.Context(), "n").Err(); err != nil {
			t.Fatal(err)
		}
		end()
		if err := client.Ping(t.Context()).Err(); err == nil {
			t.Fatal("a server that was ended answers")
		}
		s.Start()
	}
	if got := client.Get(t.Context(), "n").Val(); got != "2" {
		t.Errorf("counter after two restarts = %q, want 2", got)
	}
}

func TestMiniRedisFollowsTheBubbleClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, client := MiniRedis(t)
		if err := client.Set(t.Context(), "k", "v", time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if n := client.Exists(t.Context(), "k").Val(); n != 1 {
			t.Error("key gone before its time")
		}
		time.Sleep(2 * time.Minute)
		if n := client.Exists(t.Context(), "k").Val(); n != 0 {
			t.Error("key outlived its time")
		}
	})
}

// A pipeline far larger than any buffer must not stand still.
func TestMiniRedisTakesLongPipelines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, client := MiniRedis(t)
		value := strings.Repeat("x", 10_000)
		_, err := client.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
			for range 50 {
				pipe.Echo(t.Context(), value)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestLoggerAfterTheTest(t *testing.T) {
	var late func(msg string, args ...any)
	t.Run("inner", func(t *testing.T) {
		lg := Logger(t)
		lg.Info("in time")
		late = lg.Info
	})
	late("too late") // panics without the guard
}

func TestRoot(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(filepath.Join(Root(t), "internal", "testkit", "testkit_test.go")); err != nil {
		t.Error(err)
	}
}

func TestONNXRuntimePrefersTheVariable(t *testing.T) {
	t.Setenv("ONNXRUNTIME_LIB", "/somewhere/lib.so")
	if got := ONNXRuntime(t); got != "/somewhere/lib.so" {
		t.Errorf("ONNXRuntime = %q", got)
	}
}

func TestCachePaths(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("ONNXRUNTIME_LIB", "")
	t.Setenv("EMBEDFLEET_CACHE", cache)
	name := "libonnxruntime.so.1"
	if runtime.GOOS == "darwin" {
		name = "libonnxruntime.1.dylib"
	}
	old := filepath.Join(cache, "onnxruntime", "1.1.0", name)
	lib := filepath.Join(cache, "onnxruntime", "1.2.0", name)
	model := filepath.Join(cache, "models", "all-MiniLM-L6-v2")
	for _, file := range []string{old, lib, filepath.Join(model, "config.json")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := DefaultModel(t); got != model {
		t.Errorf("DefaultModel = %q, want %q", got, model)
	}
	if got := ONNXRuntime(t); got != lib {
		t.Errorf("ONNXRuntime = %q, want %q", got, lib)
	}
}
