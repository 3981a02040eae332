package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// canary stands in everything that a stranger sends. It must not come out anywhere.
const canary = "canary7c1f"

// What becomes of a request with hostile metadata. Most are read, and refused for their credential; what is no HTTP/2 does not
// get that far.
const (
	missing = "CREDENTIAL_MISSING"
	invalid = "CREDENTIAL_INVALID"
	notHTTP = "refused by the transport"
	letIn   = "let in"
)

// Whatever a stranger puts into metadata, the call is refused, and nothing of it is in the log or the audit.
func TestHostileMetadata(t *testing.T) {
	t.Parallel()
	_, baseURL := simulate(t)
	// In a process of its own, so that all that it writes can be read; and it is to write all it can.
	p := spawnOn(t, "sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"), baseURL, governed("log:\n  level: debug\n"))
	platform := p.governs(t, platformKey)
	platform.newTeam(t, "pink")
	elsewhere := platform.newKey(t, "pink/web", &chatsvcv1.Key{
		Roles: []chatsvcv1.AccessRole{roleCaller, roleAuditor}, AllowedCidrs: []string{"203.0.113.0/24"},
	}).GetSecret()
	good := platform.keyWith(t, "pink/web", roleCaller, roleAuditor)
	long := strings.Repeat(canary, 8<<10/len(canary))

	type fields = []hpack.HeaderField
	one := func(name, value string) fields { return fields{{Name: name, Value: value}} }
	authorization := func(value string) fields { return one("authorization", value) }
	spoofed := func(value string, more ...hpack.HeaderField) fields {
		all := authorization(value)
		for _, name := range []string{"x-team", "x-chatsvc-team", "chatsvc-team", "x-client", "x-roles", "x-forwarded-user", "x-forwarded-client-cert"} {
			all = append(all, hpack.HeaderField{Name: name, Value: "blue-" + canary})
		}
		return append(all, more...)
	}
	from := func(value, address string) fields {
		all := authorization(value)
		for _, name := range []string{"x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-envoy-external-address", "x-client-ip"} {
			all = append(all, hpack.HeaderField{Name: name, Value: address})
		}
		return append(all, hpack.HeaderField{Name: "forwarded", Value: "for=" + address})
	}
	tests := []struct {
		name   string
		fields fields
		want   string
	}{
		{"a good key", authorization("Bearer " + good), letIn},
		{"a good key, the scheme in mixed case", authorization("bEaReR " + good), letIn},
		{"a good key, and spoofed identities", spoofed("Bearer " + good), letIn},

		{"two headers, both good", append(authorization("Bearer "+good), authorization("Bearer "+good)...), invalid},
		{"two headers, the first good", append(authorization("Bearer "+good), authorization("Bearer "+canary)...), invalid},
		{"two headers, the second good", append(authorization("Bearer "+canary), authorization("Bearer "+good)...), invalid},
		{"two headers, the first empty", append(authorization(""), authorization("Bearer "+good)...), invalid},
		{"two keys in one", authorization("Bearer " + good + ", Bearer " + canary), invalid},
		{"8 KiB of key", authorization("Bearer " + long), invalid},
		{"8 KiB of scheme", authorization(long + " " + good), invalid},
		{"8 KiB of something else", one("x-something", long), missing},
		{"more than 16 KiB", append(authorization("Bearer "+long), one("x-something", long+long)...), notHTTP},
		{"SQL", authorization("Bearer '" + canary + "'OR'1'='1';DROP/**/TABLE/**/teams;--"), invalid},
		{"SQL with spaces", authorization("Bearer ' OR '1'='1'; DROP TABLE teams; -- " + canary), invalid},
		{"SQL as a key's id", authorization("Bearer csk_'or(1)=1--" + canary + "_" + strings.Repeat("a", 52)), invalid},
		{"a template", authorization("Bearer ${jndi:ldap://" + canary + "}{{.}}%s%n"), invalid},
		{"JSON", authorization(`Bearer "},"level":"ERROR","msg":"` + canary), invalid},
		{"a path", authorization("Bearer ../../../../" + canary), invalid},
		{"not ASCII", authorization("Bearer " + canary + "ſ\u202e"), invalid},
		{"not UTF-8", authorization("Bearer " + canary + "\xff\xfe"), invalid},
		{"a key in another case", authorization("Bearer " + strings.ToUpper(good)), invalid},
		{"a tab", authorization("Bearer\t" + good), invalid},
		{"another scheme", authorization("Basic " + base64.StdEncoding.EncodeToString([]byte(canary+":"+good))), invalid},
		{"a token without a signature", authorization("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIi" + canary + "fQ."), invalid},
		{"three dots", authorization("Bearer " + canary + "..."), invalid},

		{"CRLF", authorization("Bearer " + good + "\r\nx-team: " + canary), notHTTP},
		{"LF", authorization("Bearer " + canary + "\nlevel=ERROR msg=forged"), notHTTP},
		{"NUL", authorization("Bearer " + good + "\x00" + canary), notHTTP},
		{"a header's name in mixed case", one("Authorization", "Bearer "+good), notHTTP},
		{"a header's name with CRLF", one("x\r\nauthorization", "Bearer "+good), notHTTP},
		{"a header's name with a space", one("authorization ", "Bearer "+good), notHTTP},

		{"a binary header", one("authorization-bin", base64.RawStdEncoding.EncodeToString([]byte("Bearer "+good))), missing},
		{"a binary header of nonsense", append(authorization("Bearer "+canary), one("x-bin", "!"+canary)...), notHTTP},
		{"other headers for keys", append(one("x-api-key", good), append(one("proxy-authorization", "Bearer "+good), one("cookie", "authorization=Bearer "+good)...)...), missing},
		{"the key in the user agent", one("user-agent", "Bearer "+good+" "+canary), missing},
		{"spoofed identities, without a key", spoofed(""), missing},
		{"spoofed identities, with a bad key", spoofed("Bearer " + canary), invalid},
		{"spoofed trace", append(authorization("Bearer "+canary), fields{
			{Name: "traceparent", Value: canary}, {Name: "tracestate", Value: "a=" + canary}, {Name: "baggage", Value: "team=" + canary},
		}...), invalid},
		{"an address that is not allowed", authorization("Bearer " + elsewhere), "IP_NOT_ALLOWED"},
		{"a spoofed address", from("Bearer "+elsewhere, "203.0.113.7"), "IP_NOT_ALLOWED"},
		{"a list of spoofed addresses", from("Bearer "+elsewhere, "203.0.113.7, 127.0.0.1, "+canary), "IP_NOT_ALLOWED"},
	}
	methods := map[string]string{p.data: "/chatsvc.v1.CallerService/GetCaller", p.admin: "/chatsvc.v1.AuditService/GetAuditHead"}
	for _, tt := range tests {
		for target, method := range methods {
			answer, err := sendHeaders(t, target, method, tt.fields)
			switch {
			case err != nil && tt.want != notHTTP:
				t.Errorf("%s at %s: %v, want %s", tt.name, method, err, tt.want)
			case err != nil: // so it should be
			case tt.want == letIn && answer.status != "0", tt.want != letIn && answer.reason != tt.want && tt.want != notHTTP,
				tt.want == notHTTP && answer.status == "0":
				t.Errorf("%s at %s: %+v, want %s", tt.name, method, answer, tt.want)
			}
			if strings.Contains(answer.all, canary) || strings.Contains(answer.all, good) {
				t.Errorf("%s at %s: the answer repeats what was sent: %s", tt.name, method, answer.all)
			}
		}
	}

	// A header cannot make one team of another.
	spoofing := metadata.AppendToOutgoingContext(t.Context(), "x-team", "blue-"+canary, "x-forwarded-for", "203.0.113.7")
	caller, err := p.dial(t, good).caller.GetCaller(spoofing, &chatsvcv1.GetCallerRequest{})
	if err != nil || caller.GetTeam() != "teams/pink" {
		t.Errorf("the caller is %v, %v", caller, err)
	}

	// What was recorded, is; and nothing of what was sent is in it.
	var entries []*chatsvcv1.AuditEntry
	eventually(t, 5*time.Second, "denials are recorded", func() bool {
		entries = auditOf(t, platform)
		return containsReasons(entries, missing, invalid, "IP_NOT_ALLOWED")
	})
	for _, e := range entries {
		text := fmt.Sprint(e) + string(e.GetRecord())
		if containsAny(text, canary, good, elsewhere, "DROP", "203.0.113.7", "jndi") {
			t.Errorf("the audit repeats what was sent: %s", text)
		}
		if _, err := netip.ParseAddr(e.GetSource()); e.GetOutcome() == outcomeDenied && (err != nil || !netip.MustParseAddr(e.GetSource()).IsLoopback()) {
			t.Errorf("a denial of %q, want this machine's address", e.GetSource())
		}
	}
	log := p.logs.String()
	if containsAny(log, canary, good, elsewhere, "DROP", "203.0.113.7", "jndi", "forged") {
		for line := range strings.Lines(log) {
			if containsAny(line, canary, good, elsewhere, "DROP", "203.0.113.7", "jndi", "forged") {
				t.Errorf("the log repeats what was sent: %s", line)
			}
		}
	}
	if n := strings.Count(log, invalid); n < 20 {
		t.Errorf("the log has %d refusals: is it the log of these calls?", n)
	}
}

// rawAnswer is what came back.
type rawAnswer struct {
	status, reason string
	all            string // everything, decoded
}

// sendHeaders makes a call without a message, with header fields that a gRPC library would not send. An error is that of a call
// that the transport did not let through.
func sendHeaders(t *testing.T, target, method string, fields []hpack.HeaderField) (rawAnswer, error) {
	t.Helper()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: method},
		{Name: ":authority", Value: target},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}, fields...) {
		if err := encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	// Errors of writing are those of reading: the other side may have closed, and said why.
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = framer.WriteSettings()
	first := block.Next(16 << 10)
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: block.Len() == 0})
	for block.Len() > 0 {
		next := block.Next(16 << 10)
		_ = framer.WriteContinuation(1, block.Len() == 0, next)
	}
	_ = framer.WriteData(1, true, make([]byte, 5))
	return readAnswer(framer)
}

func readAnswer(framer *http2.Framer) (a rawAnswer, err error) {
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var all strings.Builder
	defer func() { a.all = all.String() }()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return a, fmt.Errorf("the connection: %w", err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.RSTStreamFrame:
			return a, fmt.Errorf("the stream is reset: %v", f.ErrCode)
		case *http2.GoAwayFrame:
			return a, fmt.Errorf("go away: %v", f.ErrCode)
		case *http2.DataFrame:
			all.Write(f.Data())
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				fmt.Fprintf(&all, "%s: %s\n", field.Name, field.Value)
				switch field.Name {
				case ":status":
					if field.Value != "200" {
						return a, errors.New("HTTP status " + field.Value)
					}
				case "grpc-status":
					a.status = field.Value
				case "grpc-status-details-bin":
					a.reason = reasonIn(field.Value, &all)
				}
			}
			if f.StreamEnded() {
				return a, nil
			}
		}
	}
}

// reasonIn returns the reason of encoded details of a status, and writes them out.
func reasonIn(encoded string, all io.Writer) string {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return err.Error()
	}
	st, info := &statuspb.Status{}, &errdetails.ErrorInfo{}
	if err := proto.Unmarshal(b, st); err != nil {
		return err.Error()
	}
	for _, d := range st.GetDetails() {
		if d.UnmarshalTo(info) == nil {
			_, _ = fmt.Fprintln(all, info)
			return info.GetReason()
		}
	}
	return ""
}
