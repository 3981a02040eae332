package interceptor

import (
	"bytes"
	"encoding/base64"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// header is one line of HTTP/2 headers, as it is written.
type header [2]string

// rawAnswer is what comes back over a connection without a gRPC client, which would refuse to send most of it.
type rawAnswer struct {
	headers map[string]string
	// cut is set where the stream, or the connection, was ended without an answer.
	cut bool
}

// rawCall sends one call over a connection of its own. Headers may begin with an :authority.
func rawCall(t *testing.T, addr, path string, headers []header) rawAnswer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(&chatsvcv1.CreateTurnRequest{Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	authority := "localhost"
	if len(headers) > 0 && headers[0][0] == ":authority" {
		authority, headers = headers[0][1], headers[1:]
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, h := range append([]header{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", path},
		{":authority", authority},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	}, headers...) {
		if err := encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	// All in one write: a server that refuses the headers may have closed the connection before a second one.
	var sent bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	writer := http2.NewFramer(&sent, nil)
	for _, err := range []error{
		writer.WriteSettings(),
		writer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		writer.WriteData(1, true, append([]byte{0, 0, 0, 0, byte(len(message))}, message...)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write(sent.Bytes()); err != nil {
		t.Fatal(err)
	}
	answer := rawAnswer{headers: map[string]string{}}
	reader := http2.NewFramer(nil, conn)
	reader.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	for {
		frame, err := reader.ReadFrame()
		if err != nil {
			answer.cut = true
			return answer
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range frame.Fields {
				answer.headers[field.Name] = field.Value
			}
			if frame.StreamEnded() {
				return answer
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return answer
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			answer.cut = true
			return answer
		}
	}
}

// status returns the status in an answer.
func (a rawAnswer) status(t *testing.T) *status.Status {
	t.Helper()
	code, err := strconv.Atoi(a.headers["grpc-status"])
	if err != nil {
		t.Fatalf("no status in %v", a)
	}
	st := &statuspb.Status{Code: int32(code), Message: a.headers["grpc-message"]}
	if details := a.headers["grpc-status-details-bin"]; details != "" {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
		if err != nil {
			t.Fatal(err)
		}
		st = &statuspb.Status{}
		if err := proto.Unmarshal(b, st); err != nil {
			t.Fatal(err)
		}
	}
	return status.FromProto(st)
}
