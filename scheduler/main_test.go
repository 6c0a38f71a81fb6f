package scheduler_test

import (
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }
