package service

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// fullRequest sets every field of a request, though no release takes all of them together.
const fullRequest = `{
	"conversation": "` + someConversation + `", "requestId": "r", "text": "t", "instructions": "", "model": "m",
	"config": {
		"temperature": 0, "topP": 1, "maxOutputTokens": 5, "stop": ["a", "b"], "seed": "-1", "presencePenalty": -2, "frequencyPenalty": 2,
		"reasoningEffort": "REASONING_EFFORT_MINIMAL", "verbosity": "VERBOSITY_HIGH", "parallelToolCalls": false,
		"responseFormat": {"jsonSchema": {"name": "n", "description": "d", "schemaJson": "{}", "strict": true}}
	},
	"tools": [{"name": "f", "description": "d", "parametersJson": "{}", "strict": true}, {"name": "g"}],
	"toolChoice": {"mode": "MODE_TOOL", "tool": "g"},
	"labels": {"k": "v", "l": "w", "m": ""},
	"baseTurn": "` + someTurn + `", "onConflict": "ON_CONFLICT_FORK", "wait": "WAIT_NO_WAIT", "onDisconnect": "ON_DISCONNECT_CONTINUE",
	"allowOutputReset": true, "maxCostNanoUsd": "0", "minOutputTokens": 1,
	"input": [
		{"role": "ROLE_USER", "parts": [
			{"text": "a"}, {"image": {"data": "aGk=", "mimeType": "image/png", "detail": "IMAGE_DETAIL_LOW"}}, {"image": {"uri": "https://a"}}
		]},
		{"role": "ROLE_ASSISTANT", "parts": [
			{"toolCall": {"id": "c", "name": "f", "argumentsJson": "{}"}}, {"refusal": {"text": "r"}},
			{"reasoning": {"summary": "s", "providerState": "AAE="}}
		]},
		{"role": "ROLE_TOOL", "parts": [{"toolResult": {"toolCallId": "c", "text": "t", "isError": true}}]}
	]
}`

// withUnknown adds fields that this build does not know, to the request and to something in it.
func withUnknown(in *chatsvcv1.CreateTurnRequest) *chatsvcv1.CreateTurnRequest {
	raw := protowire.AppendString(protowire.AppendTag(nil, 1001, protowire.BytesType), "x")
	raw = protowire.AppendVarint(protowire.AppendTag(raw, 1000, protowire.VarintType), 7)
	in.ProtoReflect().SetUnknown(raw)
	in.GetConfig().ProtoReflect().SetUnknown(slices.Clone(raw))
	return in
}

// Fingerprints are kept for a day and more, and compared by whatever release answers the repeat.
func TestFingerprintStays(t *testing.T) {
	for _, test := range []struct {
		in   *chatsvcv1.CreateTurnRequest
		want string
	}{
		{&chatsvcv1.CreateTurnRequest{Text: "Bonjour"}, "4d549f1d850132c176e7a151ee373f994042d64e292ed8a562b0d3399a9755ca"},
		{withUnknown(fromJSON(t, fullRequest, &chatsvcv1.CreateTurnRequest{})), "a59ee6766c1de6161321b748b7d5d0222ecaac3c254e2fa5f8f8376841102863"},
	} {
		if got := fingerprint(test.in); hex.EncodeToString(got[:]) != test.want {
			t.Errorf("the fingerprint of %v has changed to %x: is it a new fingerprintVersion?", test.in, got)
		}
	}
	// The first, spelled out: field 4 of 7 bytes, no more fields, nothing unknown.
	if got := sha256.Sum256([]byte(fingerprintVersion + "\x04\x07Bonjour\x00\x00")); got != fingerprint(&chatsvcv1.CreateTurnRequest{Text: "Bonjour"}) {
		t.Errorf("%x is not how the form is described", got)
	}
}

// Unknown fields keep their order only among those with the same number.
func TestFingerprintOfUnknownFields(t *testing.T) {
	a := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1001, protowire.VarintType), 1)
	c := protowire.AppendVarint(protowire.AppendTag(nil, 1001, protowire.VarintType), 2)
	of := func(fields ...[]byte) [32]byte {
		in := &chatsvcv1.CreateTurnRequest{Text: "a"}
		in.ProtoReflect().SetUnknown(slices.Concat(fields...))
		return fingerprint(in)
	}
	if of(a, b, c) != of(b, c, a) || of(a, b, c) != of(b, a, c) {
		t.Error("the order of fields changes the fingerprint")
	}
	if of(a, b, c) == of(a, c, b) || of(a) == of(b) || of(b) == of(c) || of() == of(a) || of(a) == of(a, a) {
		t.Error("different unknown fields have the same fingerprint")
	}
}

func TestFingerprintTellsApart(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		same       bool
	}{
		{"the id", `{"text":"a","requestId":"r"}`, `{"text":"a","requestId":"s"}`, true},
		{"waiting", `{"text":"a","wait":"WAIT_NO_WAIT"}`, `{"text":"a","wait":"WAIT_COMPLETION"}`, true},
		{"leaving", `{"text":"a","onDisconnect":"ON_DISCONNECT_CANCEL"}`, `{"text":"a"}`, true},
		{"what the wire does not tell apart", `{"text":"a","model":"","tools":[],"labels":{}}`, `{"text":"a"}`, true},
		{"the order of labels", `{"text":"a","labels":{"a":"1","b":"2"}}`, `{"text":"a","labels":{"b":"2","a":"1"}}`, true},

		{"text and input", `{"text":"a"}`, `{"input":[{"role":"ROLE_USER","parts":[{"text":"a"}]}]}`, false},
		{"no instructions, and empty ones", `{"text":"a"}`, `{"text":"a","instructions":""}`, false},
		{"no config, and an empty one", `{"text":"a"}`, `{"text":"a","config":{}}`, false},
		{"no temperature, and 0", `{"text":"a","config":{}}`, `{"text":"a","config":{"temperature":0}}`, false},
		{"no form, and text", `{"text":"a","config":{"responseFormat":{}}}`, `{"text":"a","config":{"responseFormat":{"text":{}}}}`, false},
		{"the forms", `{"text":"a","config":{"responseFormat":{"jsonObject":{}}}}`, `{"text":"a","config":{"responseFormat":{"text":{}}}}`, false},
		{"no part, and an empty one", `{"input":[{"parts":[{}]}]}`, `{"input":[{"parts":[{"text":""}]}]}`, false},
		{"no role, and USER", `{"input":[{"parts":[{"text":"a"}]}]}`, `{"input":[{"role":"ROLE_USER","parts":[{"text":"a"}]}]}`, false},
		{"where a message ends", `{"input":[{"parts":[{"text":"a"},{"text":"b"}]},{}]}`, `{"input":[{"parts":[{"text":"a"}]},{"parts":[{"text":"b"}]}]}`, false},
		{"where a string ends", `{"text":"a","config":{"stop":["ab","c"]}}`, `{"text":"a","config":{"stop":["a","bc"]}}`, false},
		{"the order of messages", `{"input":[{"parts":[{"text":"a"}]},{"parts":[{"text":"b"}]}]}`, `{"input":[{"parts":[{"text":"b"}]},{"parts":[{"text":"a"}]}]}`, false},
		{"where a key ends", `{"text":"a","labels":{"a":"bc"}}`, `{"text":"a","labels":{"ab":"c"}}`, false},
		{"whose value it is", `{"text":"a","labels":{"a":"1","b":"2"}}`, `{"text":"a","labels":{"a":"2","b":"1"}}`, false},
		{"the order of keys in JSON", `{"text":"a","tools":[{"name":"f","parametersJson":"{\"a\":1,\"b\":2}"}]}`, `{"text":"a","tools":[{"name":"f","parametersJson":"{\"b\":2,\"a\":1}"}]}`, false},
		{"no cap, and 0", `{"text":"a"}`, `{"text":"a","maxCostNanoUsd":"0"}`, false},
		{"negative numbers", `{"text":"a","config":{"seed":"-1"}}`, `{"text":"a","config":{"seed":"1"}}`, false},
	} {
		a := fingerprint(fromJSON(t, test.a, &chatsvcv1.CreateTurnRequest{}))
		b := fingerprint(fromJSON(t, test.b, &chatsvcv1.CreateTurnRequest{}))
		if (a == b) != test.same {
			t.Errorf("%s: %s and %s are the same: %t", test.name, test.a, test.b, a == b)
		}
	}
}

// A change of any one field, at any depth, gives a fingerprint that no other change gives; but for those that are no
// content, which give none.
func TestFingerprintOfEveryField(t *testing.T) {
	full := withUnknown(fromJSON(t, fullRequest, &chatsvcv1.CreateTurnRequest{}))
	fields := full.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if !full.ProtoReflect().Has(fields.Get(i)) {
			t.Errorf("the test is worth something only if %s is set", fields.Get(i).FullName())
		}
	}
	original := fingerprint(full)
	seen := map[[32]byte]string{original: "the original"}
	marshal := func() string {
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(full)
		if err != nil {
			t.Fatal(err)
		}
		return string(wire)
	}
	wires := map[string]bool{marshal(): true}
	count := 0
	mutate(full.ProtoReflect(), "", func(path string) {
		count++
		got := fingerprint(full)
		if slices.ContainsFunc([]string{"request_id ", "wait ", "on_disconnect "}, func(name string) bool { return strings.HasPrefix(path, name) }) {
			if got != original {
				t.Errorf("%s changes the fingerprint", path)
			}
			return
		}
		wire := marshal()
		if wires[wire] {
			return // Two ways to the same request.
		}
		wires[wire] = true
		if other := seen[got]; other != "" {
			t.Errorf("%s and %s give the same fingerprint", path, other)
		}
		seen[got] = path
	})
	if count < 150 {
		t.Errorf("only %d changes", count)
	}
	if fingerprint(full) != original {
		t.Error("the test has not put back what it changed")
	}
}

// mutate changes one thing in m after the other, calls check with what it did, and puts it back.
func mutate(m protoreflect.Message, path string, check func(path string)) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		path := path + string(fd.Name())
		if !m.Has(fd) {
			var set protoreflect.FieldDescriptor // what setting fd would clear
			if oneof := fd.ContainingOneof(); oneof != nil {
				set = m.WhichOneof(oneof)
			}
			var old protoreflect.Value
			if set != nil {
				old = m.Get(set)
			}
			m.Set(fd, another(m, fd))
			check(path + " set")
			m.Clear(fd)
			if set != nil {
				m.Set(set, old)
			}
			continue
		}
		old, changed := copied(m, fd), another(m, fd)
		m.Clear(fd)
		check(path + " cleared")
		m.Set(fd, changed)
		check(path + " changed")
		m.Set(fd, old)
		switch {
		case fd.IsMap():
		case fd.IsList() && fd.Message() != nil:
			for i := range old.List().Len() {
				mutate(old.List().Get(i).Message(), path+"["+string('0'+rune(i))+"].", check)
			}
		case !fd.IsList() && fd.Message() != nil:
			mutate(old.Message(), path+".", check)
		}
	}
	unknown := slices.Clone(m.GetUnknown())
	m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(slices.Clone(unknown), 999, protowire.VarintType), 1))
	check(path + " with an unknown field")
	m.SetUnknown(unknown)
}

// copied returns the value of a field of m that stays what it is when the field changes; its messages are those of m.
func copied(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.Value {
	old := m.Get(fd)
	switch {
	case fd.IsMap():
		v := m.New().Mutable(fd)
		old.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			v.Map().Set(key, value)
			return true
		})
		return v
	case fd.IsList():
		v := m.New().Mutable(fd)
		for i := range old.List().Len() {
			v.List().Append(old.List().Get(i))
		}
		return v
	default:
		return old
	}
}

// another returns a value for a field of m that differs from what it is, and leaves m as it is.
func another(m protoreflect.Message, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch x := m.Get(fd).Interface().(type) {
	case protoreflect.Map:
		v := copied(m, fd)
		v.Map().Set(protoreflect.ValueOfString("another").MapKey(), protoreflect.ValueOfString(""))
		return v
	case protoreflect.List:
		v := copied(m, fd)
		v.List().Append(v.List().NewElement())
		return v
	case protoreflect.Message:
		return protoreflect.ValueOfMessage(x.Type().New())
	case string:
		return protoreflect.ValueOfString(x + "\x00")
	case []byte:
		return protoreflect.ValueOfBytes(append(slices.Clone(x), 0))
	case bool:
		return protoreflect.ValueOfBool(!x)
	case protoreflect.EnumNumber:
		return protoreflect.ValueOfEnum(x + 1)
	case int32:
		return protoreflect.ValueOfInt32(x + 1)
	case int64:
		return protoreflect.ValueOfInt64(x + 1)
	case float64:
		return protoreflect.ValueOfFloat64(x + 1)
	default:
		panic("a kind of value that requests did not have: " + fd.Kind().String())
	}
}

// The keys of maps are sorted as strings.
func TestMapsHaveStringsAsKeys(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var visit func(protoreflect.MessageDescriptor)
	visit = func(md protoreflect.MessageDescriptor) {
		if seen[md.FullName()] {
			return
		}
		seen[md.FullName()] = true
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if fd.IsMap() && fd.MapKey().Kind() != protoreflect.StringKind {
				t.Errorf("%s has keys of kind %s", fd.FullName(), fd.MapKey().Kind())
			}
			if fd.Message() != nil {
				visit(fd.Message())
			}
		}
	}
	visit((&chatsvcv1.CreateTurnRequest{}).ProtoReflect().Descriptor())
	if len(seen) < 10 {
		t.Errorf("only %d messages: %v", len(seen), slices.Sorted(maps.Keys(seen)))
	}
}

// reversed returns the fields of a message's wire by falling number, those with one number in their order.
func reversed(wire []byte) []byte {
	fields := map[protowire.Number][]byte{}
	for len(wire) > 0 {
		number, _, n := protowire.ConsumeField(wire)
		fields[number] = append(fields[number], wire[:n]...)
		wire = wire[n:]
	}
	var out []byte
	for _, number := range slices.Backward(slices.Sorted(maps.Keys(fields))) {
		out = append(out, fields[number]...)
	}
	return out
}

// However a request is marshalled, its fingerprint is the same; and two requests with one fingerprint are equal.
func FuzzFingerprint(f *testing.F) {
	for _, pair := range [][2]string{
		{fullRequest, fullRequest},
		{`{"text":"a"}`, `{"input":[{"parts":[{"text":"a"}]}]}`},
		{`{"text":"a","labels":{"a":"b","c":"d"}}`, `{"text":"a","labels":{"a":"d","c":"b"}}`},
	} {
		var wires [2][]byte
		for i, text := range pair {
			var in chatsvcv1.CreateTurnRequest
			if err := protojson.Unmarshal([]byte(text), &in); err != nil {
				f.Fatal(err)
			}
			wire, err := proto.Marshal(&in)
			if err != nil {
				f.Fatal(err)
			}
			wires[i] = wire
		}
		f.Add(wires[0], wires[1])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var first, second chatsvcv1.CreateTurnRequest
		if proto.Unmarshal(a, &first) != nil {
			t.Skip()
		}
		want := fingerprint(&first)
		again, err := proto.Marshal(&first)
		if err != nil {
			t.Fatal(err)
		}
		for _, wire := range [][]byte{again, reversed(again)} {
			var read chatsvcv1.CreateTurnRequest
			if err := proto.Unmarshal(wire, &read); err != nil {
				t.Fatal(err)
			}
			if got := fingerprint(&read); got != want {
				t.Errorf("%x, marshalled again, has the fingerprint %x, not %x", wire, got, want)
			}
		}
		if proto.Unmarshal(b, &second) != nil || fingerprint(&second) != want {
			return
		}
		for _, in := range []*chatsvcv1.CreateTurnRequest{&first, &second} {
			in.RequestId, in.Wait, in.OnDisconnect = "", 0, 0
		}
		if !proto.Equal(&first, &second) {
			t.Errorf("%v and %v have the same fingerprint", &first, &second)
		}
	})
}

func BenchmarkFingerprint(b *testing.B) {
	full := &chatsvcv1.CreateTurnRequest{}
	if err := protojson.Unmarshal([]byte(fullRequest), full); err != nil {
		b.Fatal(err)
	}
	for name, in := range map[string]*chatsvcv1.CreateTurnRequest{
		"short": {Conversation: someConversation, Text: "Bonjour"},
		"full":  full,
		"1MiB":  {Text: strings.Repeat("x", 1<<20)},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(proto.Size(in)))
			b.ReportAllocs()
			for b.Loop() {
				fingerprint(in)
			}
		})
	}
}
