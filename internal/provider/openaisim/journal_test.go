package openaisim

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestCallsKeepWhatArrived(t *testing.T) {
	u := startUpstream(t, Options{})
	body := `{"model":"sim@tokens=3", "temperature": 0,"messages":[{"role":"user","content":"é"}] }`
	req := u.request(t, body)
	req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := u.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	eventually(t, "the call has ended", func() bool { return u.Calls()[0].Outcome != Open })
	c := u.Calls()[0]
	if string(c.Body) != body || c.BodyBytes != len(body) {
		t.Errorf("body %s", c.Body)
	}
	if c.Model != "sim@tokens=3" || c.Messages != 1 || c.Stream || c.Outcome != Answered || c.Status != http.StatusOK ||
		c.PromptTokens != 8 || c.CompletionTokens != 3 || c.Started.IsZero() || c.Ended.Before(c.Started) {
		t.Errorf("call %+v", c)
	}
	if c.RequestID != resp.Header.Get("X-Request-Id") {
		t.Errorf("request id %q, the client saw %q", c.RequestID, resp.Header.Get("X-Request-Id"))
	}
	if c.Header.Get("Traceparent") == "" || c.Header.Get("Authorization") != "" {
		t.Errorf("header %v", c.Header)
	}
	if len(c.KeyFingerprint) != 8 || c.KeyFingerprint != fingerprint(testKey) || c.KeyFingerprint == fingerprint("other") {
		t.Errorf("fingerprint %q", c.KeyFingerprint)
	}
}

func TestStats(t *testing.T) {
	u := startUpstream(t, Options{Keys: []string{testKey}})
	u.ask(t, wireBody(t, "", "[[sim tokens=5]]", "", false))
	u.streamed(t, "[[sim tokens=7]]")
	u.post(t, `{}`)
	u.post(t, wireBody(t, "", "[[sim fault=500]]", "", true))
	want := map[Outcome]int64{Answered: 2, Refused: 1, Faulted: 1}
	eventually(t, "four calls have ended", func() bool { return u.Stats().Outcomes[Open] == 0 && u.Stats().Calls == 4 })
	s := u.Stats()
	for o, n := range want {
		if s.Outcomes[o] != n {
			t.Errorf("%s: %d, want %d", o, s.Outcomes[o], n)
		}
	}
	if s.CompletionTokens != 12 || s.PromptTokens < 14 || s.OpenStreams != 0 || s.ClosedByClient != 0 {
		t.Errorf("%+v", s)
	}
	s.Outcomes[Answered] = 99
	if u.Stats().Outcomes[Answered] != 2 {
		t.Error("the caller can change the counts")
	}
}

func TestJournalIsBounded(t *testing.T) {
	body := func(n int) string { return strings.Repeat("x", n) }
	for _, tc := range []struct {
		name  string
		o     Options
		posts []int
		want  []int // lengths of the bodies that are kept
	}{
		{"by calls", Options{JournalCalls: 2}, []int{1, 2, 3}, []int{2, 3}},
		{"by bytes", Options{JournalBytes: 10}, []int{4, 4, 4, 3}, []int{4, 3}},
		{"one body that is too long", Options{JournalBytes: 10}, []int{4, 30}, []int{10}},
		{"not at all", Options{JournalCalls: -1}, []int{4}, nil},
		{"without bodies", Options{JournalBytes: -1}, []int{4, 5}, []int{0, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(tc.o)
			for _, n := range tc.posts {
				record(t, s, body(n))
			}
			var got []int
			for _, c := range s.Calls() {
				got = append(got, len(c.Body))
			}
			if len(got) != len(tc.want) {
				t.Fatalf("kept %v, want %v", got, tc.want)
			}
			for i := range got {
				if got[i] != tc.want[i] {
					t.Errorf("kept %v, want %v", got, tc.want)
				}
			}
			if c := s.Calls(); len(c) > 0 && c[len(c)-1].BodyBytes != tc.posts[len(tc.posts)-1] {
				t.Errorf("the true length is lost: %d", c[len(c)-1].BodyBytes)
			}
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	u := startUpstream(t, Options{})
	bodies := []string{streamBody(t, "[[sim tokens=20]]"), wireBody(t, "", "Hi", "", false), streamBody(t, "[[sim tokens=20 fault=eof after=5]]")}
	requests := make([]*http.Request, 60)
	for i := range requests {
		requests[i] = u.request(t, bodies[i%3])
	}
	var wg sync.WaitGroup
	for _, req := range requests {
		wg.Go(func() {
			resp, err := u.client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var b bytes.Buffer
			if _, err := b.ReadFrom(resp.Body); err != nil {
				t.Error(err)
			}
			u.Stats()
			u.Calls()
		})
	}
	wg.Wait()
	eventually(t, "all calls have ended", func() bool {
		s := u.Stats()
		return s.Outcomes[Answered] == 40 && s.Outcomes[Faulted] == 20 && s.OpenStreams == 0 && s.Outcomes[Open] == 0
	})
}

func TestLogHasNoContent(t *testing.T) {
	var log bytes.Buffer
	s := New(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	record(t, s, streamBody(t, "a secret sentence"))
	if line := log.String(); !strings.Contains(line, "outcome=answered") || !strings.Contains(line, "status=200") || strings.Contains(line, "secret") {
		t.Errorf("logged %s", line)
	}
}
