package openaisim

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReadDirectives(t *testing.T) {
	text := func(s string) *string { return &s }
	for _, tc := range []struct {
		name, text, plain string
		want              func(*script)
	}{
		{"none", "Bonjour", "Bonjour", func(*script) {}},
		{"look-alikes", "[[simple]] [sim tokens=1]", "[[simple]] [sim tokens=1]", func(*script) {}},
		{"empty", "a [[sim]] b", "a  b", func(*script) {}},
		{"pace", "Hi [[sim tokens=200 ttft=50ms rate=100/s finish=length]]", "Hi", func(sc *script) {
			sc.tokens, sc.ttft, sc.rate, sc.finish = 200, 50*time.Millisecond, 100, "length"
		}},
		{"commas and line breaks", "[[sim delay=1s,\n\tburst=4, split=1,comments=2 rate=0.5]]", "", func(sc *script) {
			sc.delay, sc.burst, sc.split, sc.comments, sc.rate = time.Second, 4, 1, 2, 0.5
		}},
		{"two of them, the last wins", "[[sim tokens=1]]x[[sim tokens=2]]", "x", func(sc *script) { sc.tokens = 2 }},
		{"double quotes", `[[sim answer="a ]] \"b\", \d\n"]]`, "", func(sc *script) { sc.answer = text("a ]] \"b\", \\d\n") }},
		{"single quotes", `[[sim answer='say "it\'s"']]`, "", func(sc *script) { sc.answer = text(`say "it's"`) }},
		{"backticks", "[[sim answer=`a\\n'b'`]]", "", func(sc *script) { sc.answer = text(`a\n'b'`) }},
		{"bare answer", "[[sim answer=yes]]", "", func(sc *script) { sc.answer = text("yes") }},
		{"empty answer", "[[sim answer='']]", "", func(sc *script) { sc.answer = text("") }},
		{"tools", `[[sim tool=a args='{"x":[[1]]}' tool=b]]`, "", func(sc *script) {
			sc.tools = []scriptedTool{{"a", `{"x":[[1]]}`}, {"b", "{}"}}
		}},
		{"refusal", "[[sim refusal=\"I can't.\" reasoning=7]]", "", func(sc *script) { sc.refusal, sc.reasoning = "I can't.", 7 }},
		{"fault", "[[sim fault=429-rate retry-after=1500ms times=2 key=abc]]", "", func(sc *script) {
			sc.fault, sc.retryAfter, sc.times, sc.key = "429-rate", 1500*time.Millisecond, 2, "abc"
		}},
		{"fault with a place", "[[sim fault=huge after=3 size=2]]", "", func(sc *script) { sc.fault, sc.after, sc.size = "huge", 3, 2 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, want := newScript(0, 0), newScript(0, 0)
			tc.want(&want)
			plain, err := got.readDirectives(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if plain != tc.plain {
				t.Errorf("plain text %q, want %q", plain, tc.plain)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("script %+v, want %+v", got, want)
			}
			if err := got.check(); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

func TestDirectivesThatCannotBeRead(t *testing.T) {
	for directive, want := range map[string]string{
		"[[sim tokens=5":                        "not closed",
		"[[sim answer='x]]":                     "quote",
		"[[sim tokens]]":                        "name=value",
		"[[sim =5]]":                            "name=value",
		"[[sim Tokens=5]]":                      "name=value",
		"[[sim colour=red]]":                    "no such setting",
		"[[sim tokens=-1]]":                     "whole number",
		"[[sim tokens=1000001]]":                "whole number",
		"[[sim burst=0]]":                       "whole number",
		"[[sim ttft=5]]":                        "duration",
		"[[sim delay=-1s]]":                     "duration",
		"[[sim delay=2h]]":                      "duration",
		"[[sim rate=NaN]]":                      "rate",
		"[[sim rate=-1/s]]":                     "rate",
		"[[sim rate=1e-30]]":                    "rate",
		"[[sim finish=whenever]]":               "none of",
		"[[sim fault=fire]]":                    "none of",
		"[[sim args='{}']]":                     "no tool",
		"[[sim tool='']]":                       "no name",
		"[[sim tokens=1 answer=x]]":             "exclude",
		"[[sim fault=500 times=2]]":             "key",
		"[[sim after=2]]":                       "needs a fault",
		"[[sim ok=1 " + strings.Repeat("é", 50): "no such setting",
	} {
		sc := newScript(0, 0)
		_, err := sc.readDirectives(directive)
		if err == nil {
			err = sc.check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", directive, err, want)
		}
	}
}

func FuzzReadDirectives(f *testing.F) {
	f.Add("Bonjour [[sim tokens=200 ttft=50ms rate=100/s finish=length]]")
	f.Add(`[[sim tool=a args='{"x":1}' answer="\"" refusal=` + "`x`" + `]]`)
	f.Add("[[sim fault=cut after=3 times=1 key=k]][[sim")
	f.Add("[[[sim ]]]][[simx]]")
	f.Fuzz(func(t *testing.T, text string) {
		sc := newScript(0, 0)
		plain, err := sc.readDirectives(text)
		if err != nil {
			return
		}
		if len(plain) > len(text) {
			t.Fatalf("%q grew to %q", text, plain)
		}
		if sc.burst < 1 || sc.split < 0 || sc.after < -1 || sc.rate < 0 || sc.delay < 0 || sc.ttft < 0 || sc.size < 1 {
			t.Fatalf("%q gives a script out of bounds: %+v", text, sc)
		}
	})
}
