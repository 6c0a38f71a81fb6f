package storetest_test

import (
	"testing"

	"github.com/embedfleet/embedfleet/store/storetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Store { return storetest.NewMemory() })
}

func TestMemoryFaults(t *testing.T) {
	t.Parallel()
	storetest.RunFaults(t, func(*testing.T) (storetest.Store, func(storetest.Fault)) {
		m := storetest.NewMemory()
		return m, m.FailNext
	})
}
