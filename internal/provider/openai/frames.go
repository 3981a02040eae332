package openai

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

const (
	// readSize is how much is read from the socket at once.
	readSize = 16 << 10
	// drainBytes is how much may follow [DONE] without costing the connection.
	drainBytes = 4 << 10
)

// separator stands before each event in a line of frames. Neither JSON text nor any line that go-openai recognises
// begins with it, and no JSON string holds it.
const separator = '\x1e'

// What ends a stream that is not worth reading on.
var (
	errLineTooLarge   = errors.New("a line of the stream is larger than the limit")
	errStreamTooLarge = errors.New("the stream is larger than the limit")
)

// frames is the body that go-openai reads in place of the response's own. All server-sent events that are complete are
// handed over as one line,
//
//	data: ␞event␞event…
//
// for go-openai takes its toll per line. Comments, blank lines and fields other than data, which it would collect for
// as long as the stream lives, are left out; an event of several data lines is joined, and that of an error event is
// wrapped so that it looks like an error that comes without a name. The end is io.EOF after [DONE] as well as after a
// clean end of the body; whether the answer was complete is not for frames to say.
//
// Read never waits while it has something to hand over.
type frames struct {
	body      io.ReadCloser
	maxLine   int
	maxStream int
	pool      *sync.Pool // of *buffers

	in         []byte // what was read; in[start:end] is not yet parsed, and in[start:scanned] has no line break
	start, end int
	scanned    int
	total      int

	event   []byte // the data of the event that is being read
	hasData bool
	isError bool // its name is error

	out  []byte // the line being handed over
	read int    // how much of it was

	err   error // what comes after out
	done  bool  // [DONE] was seen
	begun bool  // the first line was read
	atEOF bool  // the body is read to its end
}

// buffers is the memory of frames. Streams are many and short, and most of what they would allocate is this.
type buffers struct{ in, event, out []byte }

// pooled bounds what is kept of a buffer that grew.
const pooled = 64 << 10

func newFrames(body io.ReadCloser, maxLine, maxStream int, pool *sync.Pool) *frames {
	b, ok := pool.Get().(*buffers)
	if !ok {
		b = &buffers{in: make([]byte, readSize)}
	}
	return &frames{body: body, maxLine: maxLine, maxStream: maxStream, pool: pool, in: b.in, event: b.event[:0], out: b.out[:0]}
}

// release gives the buffers back to the pool. Nothing may be read any more.
func (f *frames) release() {
	b := &buffers{in: f.in, event: f.event, out: f.out}
	f.in, f.event, f.out, f.read, f.err = nil, nil, nil, 0, io.EOF
	if max(cap(b.in), cap(b.event), cap(b.out)) <= pooled {
		f.pool.Put(b)
	}
}

// Read implements io.Reader.
func (f *frames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.read == len(f.out) {
		f.out, f.read = append(f.out[:0], "data: "...), 0
		prefix := len(f.out)
		for len(f.out) == prefix {
			if f.err != nil {
				f.out = f.out[:0]
				return 0, f.err
			}
			f.err = f.fill()
		}
		f.out = append(f.out, '\n')
	}
	n := copy(p, f.out[f.read:])
	f.read += n
	return n, nil
}

// Close closes the response's body.
func (f *frames) Close() error { return f.body.Close() }

// fill reads once from the body and parses all the lines that are complete.
func (f *frames) fill() error {
	if f.start > 0 {
		f.end = copy(f.in, f.in[f.start:f.end])
		f.scanned -= f.start
		f.start = 0
	}
	if f.end == len(f.in) {
		f.in = append(f.in, make([]byte, len(f.in))...)
	}
	n, err := f.body.Read(f.in[f.end:])
	f.end += n
	f.total += n
	for {
		i := bytes.IndexByte(f.in[f.scanned:f.end], '\n')
		if i < 0 {
			f.scanned = f.end
			break
		}
		line := f.in[f.start : f.scanned+i]
		f.start += len(line) + 1
		f.scanned = f.start
		if parseErr := f.parse(bytes.TrimSuffix(line, []byte{'\r'})); parseErr != nil {
			return parseErr
		}
	}
	switch {
	case err == io.EOF:
		f.atEOF = true
		// The body may lack the last blank line, but not a part of the last data line. All dispatch can say is io.EOF, too.
		_ = f.dispatch()
	case err == nil && f.end-f.start > f.maxLine:
		return errLineTooLarge
	case err == nil && f.total > f.maxStream:
		return errStreamTooLarge
	}
	return err
}

// parse takes in one line.
func (f *frames) parse(line []byte) error {
	if !f.begun {
		f.begun = true
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")) // a byte order mark is no part of the stream
	}
	if len(line) == 0 {
		return f.dispatch()
	}
	name, value, _ := bytes.Cut(line, []byte{':'})
	value = bytes.TrimPrefix(value, []byte{' '})
	switch string(name) {
	case "data":
		if len(f.event)+len(value) >= f.maxLine {
			return errLineTooLarge
		}
		if f.hasData {
			// Where a line break would be right in JSON, so is a tab; and where not, neither.
			f.event = append(f.event, '\t')
		}
		f.event = append(f.event, value...)
		f.hasData = true
	case "event":
		f.isError = string(value) == "error"
	}
	return nil
}

// dispatch ends an event: it goes to out.
func (f *frames) dispatch() error {
	event, hasData, isError := bytes.TrimSpace(f.event), f.hasData, f.isError
	f.event, f.hasData, f.isError = f.event[:0], false, false
	switch {
	case !hasData || len(event) == 0:
		return nil
	case string(event) == "[DONE]":
		f.done = true
		return io.EOF
	case isError && !bytes.HasPrefix(event, []byte(`{"error"`)):
		f.out = append(f.out, separator)
		f.out = append(f.out, `{"error":`...)
		f.out = append(f.out, event...)
		f.out = append(f.out, '}')
	default:
		f.out = append(f.out, separator)
		f.out = append(f.out, event...)
	}
	return nil
}

// drain reads on to the end of the body, if that is near, so that the connection can be used again.
func (f *frames) drain() {
	if f.atEOF {
		return
	}
	_, _ = io.CopyN(io.Discard, f.body, drainBytes) // if it fails, the connection is lost, and nothing else
}
