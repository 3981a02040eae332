package sqlstore

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// childEnv names the database of a test that runs in a process of its own, started by another test.
const childEnv = "SQLSTORE_TEST_CHILD"

// child returns the command that runs one test of this binary on the database at path.
func child(t *testing.T, test, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// What was acknowledged is there after the process was killed in the middle of its work.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "killed.db")
	var begun, ended []conversation.ID
	for range 3 { // on the same file
		cmd := child(t, "TestKilledChild", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			what, name, _ := strings.Cut(lines.Text(), " ")
			raw, err := hex.DecodeString(name)
			if err != nil || len(raw) != 16 {
				continue // what testing says
			}
			switch what {
			case "begun":
				begun = append(begun, conversation.ID(raw))
			case "ended":
				ended = append(ended, conversation.ID(raw))
			}
			if n++; n == 1500 {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || n < 1500 {
			t.Fatalf("the child ended by itself after %d turns: %v", n, err)
		}
		func() {
			db, err := OpenSQLite(t.Context(), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}()
			check(t, db)
			for _, id := range begun {
				if _, err := db.GetTurn(t.Context(), "team", id, true); err != nil {
					t.Fatalf("a turn whose begin was acknowledged: %v", err)
				}
			}
			for _, id := range ended {
				got, err := db.GetTurn(t.Context(), "team", id, true)
				if err != nil || got.State != conversation.Completed || got.OutputText() != "answer" {
					t.Fatalf("a turn whose end was acknowledged: %+v, %v", got, err)
				}
				c, err := db.GetConversation(t.Context(), "team", got.Conversation)
				if err != nil || c.Head.Position%2 != 0 || c.Head.Position == 0 {
					t.Fatalf("its conversation: %+v, %v", c, err)
				}
			}
			if len(begun) == len(ended) {
				return // unlikely, but then there may be nothing to take over
			}
			duties, err := db.Duties(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, taken := range duties.Taken {
				taken.Turn.State = conversation.Failed
				if err := db.EndTurn(t.Context(), &conversation.End{Turn: taken.Turn, Takeovers: taken.Takeovers}); err != nil {
					t.Fatal(err)
				}
			}
		}()
	}
}

// TestKilledChild is the process that TestKilled kills.
func TestKilledChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("is run by TestKilled")
	}
	db := openAt(t, path, Options{})
	var mu sync.Mutex
	say := func(what string, id conversation.ID) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := fmt.Fprintf(os.Stdout, "%s %x\n", what, id); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for range 32 {
		c := newConversation(t, db)
		wg.Go(func() {
			var h head
			for {
				a := admission(c.ID, h, "question")
				if err := db.BeginTurn(t.Context(), a); err != nil {
					t.Error(err)
					return
				}
				say("begun", a.Turn.ID)
				if err := db.EndTurn(t.Context(), ending(a, "answer")); err != nil {
					t.Error(err)
					return
				}
				say("ended", a.Turn.ID)
				h = after(a)
			}
		})
	}
	wg.Wait()
}

// runChild runs a test in a process of its own, to its end.
func runChild(t *testing.T, test, path string) {
	t.Helper()
	cmd := child(t, test, path)
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) || !strings.Contains(string(out), "--- PASS: "+test) {
		t.Fatalf("%v\n%s", err, out)
	}
}
