package sqlstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// eventsVersion begins the stored form of events: the sequence number and the time of the first as varints, and then, of
// each event,
//
//	a byte of its kind (the lower four bits) and of what follows
//	how far its sequence number is above the last one's, if that is not 1
//	nanoseconds since the last one, signed
//	its part, if that is not the last one's
//	of a delta: the text; the id and the name of a tool call, if there are any
//	of the start of an attempt: its number, the model
//
// Numbers are varints, and strings have their length before them. A delta of a few letters takes about ten bytes more.
const eventsVersion = 1

// The bits of an event's first byte that say what follows.
const (
	eventKind = 0x0f
	eventJump = 0x10
	eventPart = 0x20
	eventTool = 0x40
)

// eventRowBytes is the size at which a row of events is full: readers get a whole row at a time.
const eventRowBytes = 64 << 10

// An eventRow is a row of events: those with the sequence numbers from first to last.
type eventRow struct {
	first, last int64
	data        []byte
}

// eventRows encodes events of one turn, whose sequence numbers must rise.
func eventRows(events []conversation.Event) ([]eventRow, error) {
	var rows []eventRow
	for len(events) > 0 {
		data, n, err := encodeEvents(events, eventRowBytes)
		if err != nil {
			return nil, fmt.Errorf("encode events: %w", err)
		}
		rows = append(rows, eventRow{events[0].Sequence, events[n-1].Sequence, data})
		events = events[n:]
	}
	return rows, nil
}

// encodeEvents encodes the first of the events, at least one and none after size bytes, and returns how many.
func encodeEvents(events []conversation.Event, size int) (data []byte, n int, err error) {
	text := 0
	for i := range events {
		text += len(events[i].Text) + 12
	}
	b := make([]byte, 0, min(text, size)+64)
	b = append(b, eventsVersion)
	sequence, at, part := events[0].Sequence-1, nanos(events[0].Time), 0
	b = binary.AppendUvarint(b, uint64(events[0].Sequence)) //nolint:gosec // checked below
	b = binary.AppendVarint(b, at)
	for ; n < len(events) && (n == 0 || len(b) < size); n++ {
		e := &events[n]
		if e.Sequence <= sequence || sequence < 0 {
			return nil, 0, fmt.Errorf("sequence number %d follows %d", e.Sequence, sequence)
		}
		if !e.Kind.IsDelta() && e.Kind != conversation.EventAttemptStarted && e.Kind != conversation.EventOutputReset {
			return nil, 0, fmt.Errorf("events of kind %d are not kept", e.Kind)
		}
		head := byte(e.Kind)
		if e.Sequence != sequence+1 {
			head |= eventJump
		}
		if e.PartIndex != part {
			head |= eventPart
		}
		if e.ToolCallID != "" || e.ToolName != "" {
			head |= eventTool
		}
		b = append(b, head)
		if head&eventJump != 0 {
			b = binary.AppendUvarint(b, uint64(e.Sequence-sequence)) //nolint:gosec // above 0
		}
		now := nanos(e.Time)
		b = binary.AppendVarint(b, now-at)
		if head&eventPart != 0 {
			b = binary.AppendVarint(b, int64(e.PartIndex))
		}
		if e.Kind.IsDelta() {
			b = appendString(b, e.Text)
		}
		if head&eventTool != 0 {
			b = appendString(appendString(b, e.ToolCallID), e.ToolName)
		}
		if e.Kind == conversation.EventAttemptStarted {
			b = appendString(binary.AppendVarint(b, int64(e.Attempt)), e.Model)
		}
		sequence, at, part = e.Sequence, now, e.PartIndex
	}
	return b, n, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errEvents = errors.New("the stored events cannot be read")

// decodeEvents appends to events those of data that are above the sequence number after, until their strings have passed
// size, and returns how much is left of that.
func decodeEvents(events []conversation.Event, data []byte, after int64, size int) ([]conversation.Event, int, error) {
	d := eventDecoder{rest: string(data)} // the events share it
	if d.byte() != eventsVersion {
		return events, size, errEvents
	}
	sequence, at, part := int64(d.uvarint())-1, d.varint(), int64(0) //nolint:gosec // checked below
	for d.rest != "" && size > 0 && !d.bad {
		head := d.byte()
		e := conversation.Event{Kind: conversation.EventKind(head & eventKind)}
		step := uint64(1)
		if head&eventJump != 0 {
			step = d.uvarint()
		}
		before := sequence
		sequence += int64(step)
		at += d.varint()
		if head&eventPart != 0 {
			part = d.varint()
		}
		switch {
		case e.Kind.IsDelta():
			e.Text = d.string()
		case e.Kind == conversation.EventAttemptStarted, e.Kind == conversation.EventOutputReset:
		default:
			return events, size, errEvents
		}
		if head&eventTool != 0 {
			e.ToolCallID, e.ToolName = d.string(), d.string()
		}
		if e.Kind == conversation.EventAttemptStarted {
			e.Attempt, e.Model = int(d.varint()), d.string()
		}
		if d.bad || before < 0 || sequence <= before {
			return events, size, errEvents
		}
		if sequence > after {
			e.Sequence, e.Time, e.PartIndex = sequence, fromNanos(at), int(part)
			events = append(events, e)
			size -= eventSize + len(e.Text) + len(e.ToolCallID) + len(e.ToolName) + len(e.Model)
		}
	}
	if d.bad {
		return events, size, errEvents
	}
	return events, size, nil
}

// eventSize is what an event without its strings counts for.
const eventSize = 32

// An eventDecoder takes values from rest, and is bad once there was not what it was asked for.
type eventDecoder struct {
	rest string
	bad  bool
}

func (d *eventDecoder) byte() byte {
	if d.rest == "" {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *eventDecoder) uvarint() uint64 {
	var x uint64
	for shift := 0; shift < 64; shift += 7 {
		b := d.byte()
		if shift == 63 && b > 1 {
			break
		}
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return x
		}
	}
	d.bad = true
	return 0
}

func (d *eventDecoder) varint() int64 {
	x := d.uvarint()
	return int64(x>>1) ^ -int64(x&1)
}

func (d *eventDecoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}
