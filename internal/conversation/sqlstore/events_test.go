package sqlstore

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// randomEvents are n events of the kinds that are kept.
func randomEvents(r *rand.Rand, n int) []conversation.Event {
	kinds := []conversation.EventKind{
		conversation.EventAttemptStarted, conversation.EventTextDelta, conversation.EventReasoningDelta,
		conversation.EventRefusalDelta, conversation.EventToolCallDelta, conversation.EventOutputReset,
	}
	word := func() string {
		b := make([]byte, r.IntN(1+r.IntN(300)))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return string(b)
	}
	events := make([]conversation.Event, n)
	sequence, at := int64(0), time.Unix(1_800_000_000, 123).UTC()
	for i := range events {
		sequence++
		if r.IntN(5) == 0 {
			sequence += r.Int64N(3 * conversation.SequenceBlock)
		}
		at = at.Add(time.Duration(r.Int64N(int64(time.Second))) - 100*time.Millisecond)
		e := conversation.Event{Sequence: sequence, Time: at, Kind: kinds[r.IntN(len(kinds))], PartIndex: r.IntN(3)}
		if r.IntN(20) == 0 {
			e.Time = time.Time{}
		}
		switch {
		case e.Kind.IsDelta():
			e.Text = word()
			if r.IntN(2) == 0 {
				e.ToolCallID, e.ToolName = word(), word()
			}
		case e.Kind == conversation.EventAttemptStarted:
			e.Attempt, e.Model = r.IntN(1000), word()
		}
		events[i] = e
	}
	return events
}

// Events are read as they were written, in rows that are not too large, from every place.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		events := randomEvents(r, 1+r.IntN(2000))
		rows, err := eventRows(events)
		if err != nil {
			t.Fatal(err)
		}
		after := events[r.IntN(len(events))].Sequence - int64(r.IntN(2))
		var got, want []conversation.Event
		for i, row := range rows {
			if len(row.data) > eventRowBytes+2000 {
				t.Fatalf("a row of %d bytes", len(row.data))
			}
			if i > 0 && row.first <= rows[i-1].last {
				t.Fatalf("a row begins at %d, and the one before ends at %d", row.first, rows[i-1].last)
			}
			if got, _, err = decodeEvents(got, row.data, after, math.MaxInt); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range events {
			if e.Sequence > after {
				want = append(want, e)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d events, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("event %d:\n got %+v\nwant %+v", i, got[i], want[i])
			}
		}
	}
}

func TestEventsInPieces(t *testing.T) {
	t.Parallel()
	events := randomEvents(rand.New(rand.NewPCG(5, 6)), 500)
	data, n, err := encodeEvents(events, math.MaxInt)
	if err != nil || n != len(events) {
		t.Fatal(n, err)
	}
	var got []conversation.Event
	for after := int64(0); len(got) < len(events); after = got[len(got)-1].Sequence {
		before := len(got)
		var left int
		if got, left, err = decodeEvents(got, data, after, 1000); err != nil {
			t.Fatal(err)
		}
		if len(got) == before {
			t.Fatalf("no events after %d", after)
		}
		if left < -2000 {
			t.Fatalf("%d bytes more than asked for", -left)
		}
	}
	if !slices.Equal(got, events) {
		t.Fatal("the pieces are not the whole")
	}
}

func TestEventsRefused(t *testing.T) {
	t.Parallel()
	for name, events := range map[string][]conversation.Event{
		"not kept":         {{Sequence: 1, Kind: conversation.EventTerminal}},
		"a note":           {{Sequence: 1, Kind: conversation.NoteHeartbeat}},
		"no kind":          {{Sequence: 1}},
		"the same twice":   {{Sequence: 1, Kind: conversation.EventTextDelta}, {Sequence: 1, Kind: conversation.EventTextDelta}},
		"falling":          {{Sequence: 2, Kind: conversation.EventTextDelta}, {Sequence: 1, Kind: conversation.EventTextDelta}},
		"without a number": {{Kind: conversation.EventTextDelta}},
		"below 0":          {{Sequence: math.MinInt64, Kind: conversation.EventTextDelta}},
	} {
		if _, err := eventRows(events); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if rows, err := eventRows(nil); len(rows) != 0 || err != nil {
		t.Errorf("no events make %d rows, %v", len(rows), err)
	}
}

// Whatever is stored, reading it neither panics nor takes more memory than its size lets expect, and what is read is a
// log that could have been written.
func FuzzEvents(f *testing.F) {
	for seed := range uint64(5) {
		data, _, err := encodeEvents(randomEvents(rand.New(rand.NewPCG(seed, 1)), 20), math.MaxInt)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, int64(0), 100)
		f.Add(data[:len(data)/2], int64(0), math.MaxInt)
	}
	f.Add([]byte{}, int64(0), 1)
	f.Add([]byte{eventsVersion, 1, 0, 3, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, int64(0), 1)
	f.Fuzz(func(t *testing.T, data []byte, after int64, size int) {
		events, _, err := decodeEvents(nil, data, after, size)
		if len(events) > len(data) {
			t.Fatalf("%d events in %d bytes", len(events), len(data))
		}
		text := 0
		last := max(after, 0)
		for i := range events {
			text += len(events[i].Text) + len(events[i].ToolCallID) + len(events[i].ToolName) + len(events[i].Model)
			if events[i].Sequence <= last {
				t.Fatalf("sequence number %d follows %d", events[i].Sequence, last)
			}
			last = events[i].Sequence
		}
		if text > len(data) {
			t.Fatalf("%d bytes of text in %d", text, len(data))
		}
		if err != nil || len(events) == 0 {
			return
		}
		again, n, err := encodeEvents(events, math.MaxInt)
		if err != nil || n != len(events) {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		got, _, err := decodeEvents(nil, again, 0, math.MaxInt)
		if err != nil || !slices.Equal(got, events) {
			t.Fatalf("what was read is not read again: %v", err)
		}
	})
}

// BenchmarkEvents is a tick of a turn: ten deltas of a word.
func BenchmarkEvents(b *testing.B) {
	events := make([]conversation.Event, 10)
	for i := range events {
		events[i] = conversation.Event{
			Sequence: int64(i + 100), Time: time.Unix(1_800_000_000, int64(i)*int64(13*time.Millisecond)),
			Kind: conversation.EventTextDelta, Text: " words",
		}
	}
	data, _, err := encodeEvents(events, eventRowBytes)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := encodeEvents(events, eventRowBytes); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
		b.ReportMetric(float64(len(data))/float64(len(events)), "bytes/event")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		var got []conversation.Event
		for b.Loop() {
			if got, _, err = decodeEvents(got[:0], data, 0, math.MaxInt); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
	})
}
