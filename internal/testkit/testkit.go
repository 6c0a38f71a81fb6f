// Package testkit gives tests what they share: a real redis-server, a fake one that lives in a synctest
// bubble, a logger that writes to the test, leak checks, and the paths of what a checkout has beside it.
//
// It knows Redis and the testing package and nothing of the module. Only tests may import it;
// internal/archtest sees to that.
package testkit

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// inCI reports whether a missing tool must fail a test instead of skipping it: on a build machine a skip
// would hide that nothing was tested.
func inCI() bool { return os.Getenv("CI") == "true" }

// skip ends the test as skipped, or as failed where CI=true.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if inCI() {
		t.Fatalf("CI=true allows no skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// LeakCheck fails the test if a goroutine that the test started outlives it and its cleanups. Call it first
// in a test that is not parallel; for a package of parallel tests use [VerifyMain].
func LeakCheck(t testing.TB) {
	t.Helper()
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) })
}

// VerifyMain runs a package's tests and fails if any goroutine is left at the end. It is the one line of a
// TestMain and does not return.
func VerifyMain(m *testing.M) { goleak.VerifyTestMain(m) }
