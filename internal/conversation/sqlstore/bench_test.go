package sqlstore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
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

// admission is a turn of an ordinary size, about to begin.
func admission(in, parent conversation.ID, say string) *conversation.Admission {
	return &conversation.Admission{
		Turn: &conversation.Turn{
			ID: newID(), Team: "team", Client: "client", Conversation: in, Parent: parent, State: conversation.Running,
			OnDisconnect: conversation.DisconnectCancel, CreateTime: time.Now(), TraceID: [16]byte(newID()),
			Input: []conversation.Message{{ID: newID(), Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(say)}}},
			Result: conversation.Result{
				Model: "gpt", Attempts: []conversation.Attempt{{State: conversation.AttemptIntent, Model: "gpt", CreateTime: time.Now()}},
			},
		},
		InputTokens: []int64{int64(len(say)/4 + 4)},
	}
}

// ending is the answered end of a's turn.
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
	return &conversation.End{Turn: &t, OutputTokens: []int64{int64(len(say)/4 + 4)}}
}

// turn begins and ends a turn and returns its id.
func turn(tb testing.TB, db *DB, in, parent conversation.ID, say string) conversation.ID {
	tb.Helper()
	a := admission(in, parent, say)
	if err := db.BeginTurn(tb.Context(), a); err != nil {
		tb.Fatal(err)
	}
	if err := db.EndTurn(tb.Context(), ending(a, say)); err != nil {
		tb.Fatal(err)
	}
	return a.Turn.ID
}

// BenchmarkTurn is the begin and the end of a turn in a conversation of each caller, by the number of callers and by what
// a transaction may hold. Turns per second, transactions per turn, and CPU of the whole process, callers included.
func BenchmarkTurn(b *testing.B) {
	question, answer := strings.Repeat("what? ", 50), strings.Repeat("well, ", 150)
	for _, callers := range []int{1, 32, 256} {
		for _, group := range []int{512, 1} {
			b.Run(fmt.Sprintf("callers=%d/group=%d", callers, group), func(b *testing.B) {
				db := openAt(b, filepath.Join(b.TempDir(), "b.db"), Options{maxGroup: group})
				var left atomic.Int64
				left.Store(int64(b.N))
				cs := make([]*conversation.Conversation, callers)
				for i := range cs {
					cs[i] = newConversation(b, db)
				}
				groups, cpu := db.committer.groups.Load(), cpuTime(b)
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for _, c := range cs {
					wg.Go(func() {
						for head := c.HeadTurn; left.Add(-1) >= 0; {
							a := admission(c.ID, head, question)
							if err := db.BeginTurn(b.Context(), a); err != nil {
								b.Error(err)
								return
							}
							if err := db.EndTurn(b.Context(), ending(a, answer)); err != nil {
								b.Error(err)
								return
							}
							head = a.Turn.ID
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "turns/s")
				b.ReportMetric(float64(db.committer.groups.Load()-groups)/float64(b.N), "commits/turn")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/turn")
			})
		}
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
	var head conversation.ID
	for range 100 {
		head = turn(b, db, c.ID, head, strings.Repeat("word ", 200))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range db.History(b.Context(), "team", c.ID, 200) {
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
