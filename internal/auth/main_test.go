package auth_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that what was made here leaves nothing running: a gate has nothing to be closed.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
