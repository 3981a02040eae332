package sqlstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// When the disk takes no more, writes are refused and reads go on; when it does again, so do writes, without a restart.
func TestDiskError(t *testing.T) {
	t.Parallel()
	runChild(t, "TestDiskErrorChild", filepath.Join(t.TempDir(), "disk.db")) // the limit is the process's
}

func TestDiskErrorChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("is run by TestDiskError")
	}
	db := openAt(t, path, Options{})
	c := newConversation(t, db)
	kept := turn(t, db, c.ID, head{}, "kept")

	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := syscall.Rlimit{Cur: uint64(info.Size()) + 50_000, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		refused := admission(c.ID, kept, strings.Repeat("does not fit ", 10_000))
		if err := db.BeginTurn(t.Context(), refused); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Fatalf("begin without room: %v", err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("ping without room: %v", err) // though there is for what it writes
		}
		if _, err := db.GetTurn(t.Context(), "team", refused.Turn.ID, false); !errors.Is(err, conversation.ErrNotFound) {
			t.Fatalf("the refused turn: %v", err)
		}
		if got, err := db.GetConversation(t.Context(), "team", c.ID); err != nil || !got.ActiveTurn.IsZero() || got.HeadTurn != kept.turn {
			t.Fatalf("the conversation: %+v, %v", got, err)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	turn(t, db, c.ID, kept, strings.Repeat("fits ", 10_000))
	if err := db.Ping(t.Context()); err != nil {
		t.Fatalf("ping with room again: %v", err)
	}
	check(t, db)
}
