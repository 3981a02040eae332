package openai

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const plainFrame = `{"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}],"usage":null}`

func TestEnvelope(t *testing.T) {
	var e envelope
	first := fmt.Appendf(nil, plainFrame, `"a"`)
	var c chunk
	if err := json.Unmarshal(first, &c); err != nil {
		t.Fatal(err)
	}
	e.learn(first, &c)
	for _, content := range []string{`"b"`, `" héllo 🌍"`, `"line\nbreak \"quoted\" \\ é 😀"`, `"\u0000"`, `"{\"content\":\"x\"}"`} {
		text, ok := e.open(fmt.Appendf(nil, plainFrame, content))
		var want string
		if err := json.Unmarshal([]byte(content), &want); err != nil {
			t.Fatal(err)
		}
		if !ok || string(text) != want {
			t.Errorf("%s: %q, %v", content, text, ok)
		}
	}
	for _, padding := range []string{"", "a", "aB3dE"} {
		frame := strings.TrimSuffix(fmt.Sprintf(plainFrame, `"b"`), "}") + `,"obfuscation":"` + padding + `"}`
		if text, ok := e.open([]byte(frame)); !ok || string(text) != "b" {
			t.Errorf("padded with %q: %q, %v", padding, text, ok)
		}
	}
	for name, frame := range map[string]string{
		"other envelope": strings.Replace(fmt.Sprintf(plainFrame, `"b"`), `"index":0`, `"index":1`, 1),
		"finish":         strings.Replace(fmt.Sprintf(plainFrame, `"b"`), `"finish_reason":null`, `"finish_reason":"stop"`, 1),
		"no string":      fmt.Sprintf(plainFrame, `null`),
		"two members":    fmt.Sprintf(plainFrame, `"b","refusal":"no"`),
		"raw control":    fmt.Sprintf(plainFrame, "\"a\tb\""),
		"invalid UTF-8":  fmt.Sprintf(plainFrame, "\"a\xffb\""),
		"bad escape":     fmt.Sprintf(plainFrame, `"\x"`),
		"escaped quote":  strings.Replace(fmt.Sprintf(plainFrame, `"b"`), `b"`, `b\"`, 1),
		"truncated":      fmt.Sprintf(plainFrame, `"b"`)[:40],
		"odd padding":    strings.TrimSuffix(fmt.Sprintf(plainFrame, `"b"`), "}") + `,"obfuscation":"a","error":"b"}`,
		"nested padding": strings.TrimSuffix(fmt.Sprintf(plainFrame, `"b"`), "}") + `,"x":{,"obfuscation":"a"}`,
	} {
		if text, ok := e.open([]byte(frame)); ok {
			t.Errorf("%s: opened to %q", name, text)
		}
	}
}

// The envelope never changes what a stream means: with it and without, two frames give the same answer or the same refusal.
func FuzzEnvelope(f *testing.F) {
	for _, second := range []string{`"b"`, `"\n\""`, `null`, `"b","content":"c"`, `"b","refusal":"x"`, "\"\xff\"", `"b\"`} {
		f.Add(fmt.Sprintf(plainFrame, `"a"`), fmt.Sprintf(plainFrame, second))
	}
	f.Add(`{"choices":[{"delta":{"content":"a"}}],"obfuscation":"x"}`, `{"choices":[{"delta":{"content":"b"}}],"obfuscation":"yy"}`)
	f.Add(`{"choices":[{"delta":{"content":"a"}}]}`, `{"choices":[{"delta":{"content":"b,\"obfuscation\":\""}}]}`)
	f.Add(`{"choices":[{"delta":{"content":"a","content":"b"}}]}`, `{"choices":[{"delta":{"content":"c","content":"b"}}]}`)
	f.Add(`{"x":{"content":"a"},"choices":[{"delta":{"Content":"a"}}]}`, `{"x":{"content":"b"},"choices":[{"delta":{"Content":"a"}}]}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		var with, without answer
		errWith, errWithout := with.add([]byte(first), &call{}), without.add([]byte(first), &call{})
		if (errWith == nil) != (errWithout == nil) {
			t.Fatalf("the first frame: %v and %v", errWith, errWithout)
		}
		if errWith != nil {
			return
		}
		without.common = envelope{}
		errWith, errWithout = with.add([]byte(second), &call{}), without.add([]byte(second), &call{})
		if (errWith == nil) != (errWithout == nil) || !slices.Equal(with.take(), without.take()) || with.finish != without.finish || with.usage == nil != (without.usage == nil) {
			t.Errorf("with %v, %v; without %v, %v", with.take(), errWith, without.take(), errWithout)
		}
	})
}
