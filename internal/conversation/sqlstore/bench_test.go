package sqlstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

func newID() conversation.ID { return conversation.ID(uuid.Must(uuid.NewV7())) }

func newConversation(tb testing.TB, db *DB) *conversation.Conversation {
	tb.Helper()
	c := &conversation.Conversation{ID: newID(), Team: "team", CreateTime: time.Now()}
	if err := db.CreateConversation(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// A head is what a turn continues.
type head struct {
	turn  conversation.ID
	place conversation.Place
}

// messageTokens is the size of every message.
const messageTokens = 5

// after is the head once a was answered.
func after(a *conversation.Admission) head {
	return head{a.Turn.ID, conversation.Place{
		Branch: a.Turn.Conversation, Position: a.Base.Position + 2, Tokens: a.Base.Tokens + 2*messageTokens,
	}}
}

// admission is a turn of an ordinary size, about to begin; in is zero for a one-shot.
func admission(in conversation.ID, h head, say string) *conversation.Admission {
	return &conversation.Admission{
		Turn: &conversation.Turn{
			ID: newID(), Team: "team", Client: "client", Conversation: in, Parent: h.turn, State: conversation.Running,
			OnDisconnect: conversation.DisconnectCancel, CreateTime: time.Now(), TraceID: [16]byte(newID()),
			Input: []conversation.Message{{ID: newID(), Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(say)}}},
			Result: conversation.Result{
				Model: "gpt", Attempts: []conversation.Attempt{{State: conversation.AttemptIntent, Model: "gpt", CreateTime: time.Now()}},
			},
		},
		Base:        h.place,
		InputTokens: []int64{messageTokens},
	}
}

// ending is the answered end of a's turn.
// takenOver is e for a turn that was taken over once.
func takenOver(e *conversation.End) *conversation.End {
	e.Takeovers = 1
	return e
}

func ending(a *conversation.Admission, say string) *conversation.End {
	t := *a.Turn
	t.State, t.EndTime = conversation.Completed, time.Now()
	t.Output = []conversation.Message{{ID: newID(), Role: conversation.RoleAssistant, Parts: []conversation.Part{conversation.TextPart(say)}}}
	t.Result = conversation.Result{
		Model: "gpt-x", FinishReason: conversation.FinishStop, LastSequence: 40,
		Usage:  &conversation.Usage{InputTokens: 100, OutputTokens: 100},
		Timing: conversation.Timing{Context: time.Millisecond, TimeToFirstEvent: time.Second, Generation: time.Second},
		Attempts: []conversation.Attempt{{
			State: conversation.AttemptSettled, Model: "gpt-x", UpstreamRequestID: "req_0123456789",
			Usage: &conversation.Usage{InputTokens: 100, OutputTokens: 100}, CreateTime: t.CreateTime, EndTime: t.EndTime,
		}},
	}
	return &conversation.End{Turn: &t, OutputTokens: []int64{messageTokens}}
}

// oneShot is a turn without a conversation, about to begin.
func oneShot(say string) *conversation.Admission { return admission(conversation.ID{}, head{}, say) }

// turn begins and ends a turn and returns the head after it.
func turn(tb testing.TB, db *DB, in conversation.ID, h head, say string) head {
	tb.Helper()
	a := admission(in, h, say)
	if err := db.BeginTurn(tb.Context(), a); err != nil {
		tb.Fatal(err)
	}
	if err := db.EndTurn(tb.Context(), ending(a, say)); err != nil {
		tb.Fatal(err)
	}
	return after(a)
}

// BenchmarkTurn is the begin and the end of a turn in a conversation of each caller, by engine, by the number of callers and
// by what a transaction may hold. Turns per second, transactions per turn, and CPU: of the whole process, callers included,
// and of PostgreSQL.
func BenchmarkTurn(b *testing.B) {
	for _, engine := range []struct {
		name string
		open func(b *testing.B, o Options) (*DB, func() time.Duration)
	}{
		{"sqlite", func(b *testing.B, o Options) (*DB, func() time.Duration) {
			return openAt(b, filepath.Join(b.TempDir(), "b.db"), o), nil
		}},
		{"postgres", openDurablePostgres},
	} {
		for _, callers := range []int{1, 32, 256} {
			for _, group := range []int{512, 1} {
				b.Run(fmt.Sprintf("%s/callers=%d/group=%d", engine.name, callers, group), func(b *testing.B) {
					db, serverTime := engine.open(b, Options{maxGroup: group})
					benchmarkTurn(b, db, callers, serverTime)
				})
			}
		}
	}
}

// openDurablePostgres opens a new database of a server that waits for the disk, and returns what CPU the server has used.
func openDurablePostgres(b *testing.B, o Options) (*DB, func() time.Duration) {
	b.Helper()
	server := pgtest.Start(b, pgtest.Options{Fsync: true})
	url := server.Database(b)
	if _, _, err := MigratePostgres(b.Context(), url, Options{}); err != nil {
		b.Fatal(err)
	}
	return openURL(b, url, o), func() time.Duration {
		pids, err := server.PIDs()
		if err != nil {
			b.Fatal(err)
		}
		var total time.Duration
		for _, pid := range pids {
			total += processTime(pid)
		}
		return total
	}
}

// processTime is the CPU that a process has used, to a hundredth of a second; 0 where that cannot be told.
func processTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func benchmarkTurn(b *testing.B, db *DB, callers int, serverTime func() time.Duration) {
	b.Helper()
	question, answer := strings.Repeat("what? ", 50), strings.Repeat("well, ", 150)
	var left atomic.Int64
	left.Store(int64(b.N))
	cs := make([]*conversation.Conversation, callers)
	for i := range cs {
		cs[i] = newConversation(b, db)
	}
	groups, cpu := db.committer.groups.Load(), cpuTime(b)
	var server time.Duration
	if serverTime != nil {
		server = serverTime()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() {
			var h head
			for left.Add(-1) >= 0 {
				a := admission(c.ID, h, question)
				if err := db.BeginTurn(b.Context(), a); err != nil {
					b.Error(err)
					return
				}
				if err := db.EndTurn(b.Context(), ending(a, answer)); err != nil {
					b.Error(err)
					return
				}
				h = after(a)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "turns/s")
	b.ReportMetric(float64(db.committer.groups.Load()-groups)/float64(b.N), "commits/turn")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/turn")
	if serverTime != nil {
		b.ReportMetric(float64((serverTime()-server).Microseconds())/float64(b.N), "pg-cpu-µs/turn")
	}
}

// BenchmarkFsync is the floor of a durable commit on this machine: 4 KiB appended to a file.
func BenchmarkFsync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	page := make([]byte, 4096)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkHistory reads a window of 40 messages of 1 kB.
func BenchmarkHistory(b *testing.B) {
	db := openNew(b)
	c := newConversation(b, db)
	var h head
	for range 100 {
		h = turn(b, db, c.ID, h, strings.Repeat("word ", 200))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range db.History(b.Context(), "team", c.ID, h.place) {
			if err != nil {
				b.Fatal(err)
			}
			if n++; n == 40 {
				break
			}
		}
	}
}

// BenchmarkGetConversation is the read before every turn.
func BenchmarkGetConversation(b *testing.B) {
	db := openNew(b)
	c := newConversation(b, db)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.GetConversation(b.Context(), "team", c.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
