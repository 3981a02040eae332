package openaisim

import (
	"testing"
	"testing/synctest"
	"time"
)

// took returns how long the simulator takes for an answer, in virtual time.
func took(t *testing.T, o Options, text string, stream bool) (d time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(o)
		record(t, s, wireBody(t, "", text, "", stream))
		call := s.Calls()[0]
		d = call.Ended.Sub(call.Started)
	})
	return d
}

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name, text string
		o          Options
		want       time.Duration // from the request to the end of the answer
	}{
		{"as fast as possible", "[[sim tokens=100]]", Options{}, 0},
		{"delay", "[[sim delay=3s tokens=2]]", Options{}, 3 * time.Second},
		{"time to first token", "[[sim ttft=70ms tokens=2]]", Options{}, 70 * ms},
		{"all of them", "[[sim delay=1s ttft=70ms tokens=11 rate=100/s]]", Options{}, 1170 * ms},
		{"from the options", "[[sim tokens=11]]", Options{TTFT: 50 * ms, Rate: 10}, 1050 * ms},
		{"the directive wins", "[[sim tokens=11 ttft=0s rate=0]]", Options{TTFT: 50 * ms, Rate: 10}, 0},
		{"an error comes late", "[[sim delay=2s fault=500]]", Options{}, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := took(t, tc.o, tc.text, true); got != tc.want {
				t.Errorf("took %v, want %v", got, tc.want)
			}
		})
	}
	if got, want := took(t, Options{}, "[[sim ttft=500ms tokens=20 rate=10/s]]", false), 2500*ms; got != want {
		t.Errorf("in one body: took %v, want %v", got, want)
	}
}
