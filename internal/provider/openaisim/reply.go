package openaisim

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"
)

// reply is what the model says, all of it decided before the first byte is sent, so
// that one body and a stream agree.
type reply struct {
	text    string
	refusal string
	calls   []madeCall
	finish  string
	usage   usage
}

// madeCall is a tool call of a reply. Its id is given out when it is sent.
type madeCall struct{ id, name, arguments string }

// usage counts tokens; completion includes reasoning.
type usage struct{ prompt, cached, completion, reasoning int }

type deltaKind int

const (
	deltaText deltaKind = iota
	deltaRefusal
	deltaCall      // a tool call begins; text is empty
	deltaArguments // a fragment of the arguments of the latest tool call
)

// delta is one token of a reply.
type delta struct {
	kind deltaKind
	call int // index of the tool call
	text string
}

// newReply decides on the reply to req.
func newReply(req *request, sc *script) *reply {
	r := &reply{}
	r.usage.prompt, r.usage.cached = promptTokens(req)
	r.decide(req, sc)
	natural := "stop"
	if cut := firstStop(r.text, req.stops); cut >= 0 {
		r.text, r.calls = r.text[:cut], nil
	}
	if len(r.calls) > 0 {
		natural = "tool_calls"
	}
	if r.spend(req, sc) {
		natural = "length"
	}
	r.finish = natural
	if sc.finish != "" {
		r.finish = sc.finish
	}
	return r
}

// decide chooses between text, refusal and tool calls.
func (r *reply) decide(req *request, sc *script) {
	for _, t := range sc.tools {
		r.calls = append(r.calls, madeCall{newID("call_", 24), t.name, t.args})
	}
	switch {
	case sc.refusal != "":
		r.refusal = sc.refusal
		return
	case sc.answer != nil:
		r.text = *sc.answer
		return
	case sc.tokens >= 0:
		r.text = filler(sc.tokens)
		return
	case len(r.calls) > 0:
		return
	}
	if r.calls = chooseTools(req); len(r.calls) > 0 {
		return
	}
	t := readTalk(req.Messages)
	r.text = t.answer()
	if format := req.ResponseFormat; format != nil {
		switch format.Type {
		case "json_object":
			answer, err := json.Marshal(struct {
				Answer string `json:"answer"`
				Turn   int    `json:"turn"`
			}{r.text, len(t.said)})
			if err == nil { // a string and a number always marshal
				r.text = string(answer)
			}
		case "json_schema":
			r.text = exampleOf(format.JSONSchema.Schema)
		}
	}
}

// chooseTools returns the calls that a request without a script leads to.
func chooseTools(req *request) []madeCall {
	last := &req.Messages[len(req.Messages)-1]
	if len(req.Tools) == 0 || req.choice.mode == "none" || last.Role == "tool" && req.choice.mode == "auto" {
		return nil
	}
	var calls []madeCall
	said := ""
	if last.Role == "user" {
		said = normalise(withoutDirectives(last.text))
	}
	for i := range req.Tools {
		fn := &req.Tools[i].Function
		mentioned := req.choice.mode != "named" && strings.Contains(said, " "+strings.ToLower(fn.Name)+" ")
		if mentioned || req.choice.name == fn.Name {
			calls = append(calls, madeCall{newID("call_", 24), fn.Name, exampleOf(fn.Parameters)})
		}
	}
	if len(calls) == 0 && req.choice.mode == "required" {
		fn := &req.Tools[0].Function
		calls = append(calls, madeCall{newID("call_", 24), fn.Name, exampleOf(fn.Parameters)})
	}
	if len(calls) > 1 && req.ParallelToolCalls != nil && !*req.ParallelToolCalls {
		calls = calls[:1]
	}
	return calls
}

// firstStop returns where the earliest stop sequence begins in text, or -1.
func firstStop(text string, stops []string) int {
	first := -1
	for _, stop := range stops {
		if i := strings.Index(text, stop); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	return first
}

// spend counts the tokens of the reply, cuts it to the request's limit, and reports
// whether it had to. Reasoning comes first, and may leave nothing for the answer.
func (r *reply) spend(req *request, sc *script) (cut bool) {
	limit := -1
	for _, p := range []*int64{req.MaxTokens, req.MaxCompletionTokens} {
		if p != nil {
			limit = int(*p)
		}
	}
	r.usage.reasoning = sc.reasoning
	if sc.reasoning < 0 {
		r.usage.reasoning = 0
		if req.model.reasoning {
			effort := "medium"
			if req.ReasoningEffort != nil {
				effort = *req.ReasoningEffort
			}
			r.usage.reasoning, _ = effortTokens(effort)
		}
	}
	left := limit
	take := func(s string) string {
		kept, n := firstTokens(s, left)
		cut = cut || len(kept) < len(s)
		r.usage.completion += n
		if limit >= 0 {
			left -= n
		}
		return kept
	}
	if limit >= 0 && r.usage.reasoning > limit {
		r.usage.reasoning, cut = limit, true
	}
	r.usage.completion = r.usage.reasoning
	if limit >= 0 {
		left -= r.usage.reasoning
	}
	r.text, r.refusal = take(r.text), take(r.refusal)
	for i := range r.calls {
		if left == 0 {
			r.calls, cut = slices.Clip(r.calls[:i]), true
			break
		}
		r.usage.completion++
		if limit >= 0 {
			left--
		}
		r.calls[i].arguments = take(r.calls[i].arguments)
	}
	return cut
}

// effortTokens returns how many tokens an effort spends on reasoning, and whether
// there is such an effort.
func effortTokens(effort string) (int, bool) {
	switch effort {
	case "none", "minimal":
		return 0, true
	case "low":
		return 16, true
	case "medium":
		return 64, true
	case "high":
		return 256, true
	case "xhigh":
		return 512, true
	}
	return 0, false
}

// deltas yields the reply token by token.
func (r *reply) deltas() iter.Seq[delta] {
	return func(yield func(delta) bool) {
		for piece := range pieces(r.text) {
			if !yield(delta{kind: deltaText, text: piece}) {
				return
			}
		}
		for piece := range pieces(r.refusal) {
			if !yield(delta{kind: deltaRefusal, text: piece}) {
				return
			}
		}
		for i, call := range r.calls {
			if !yield(delta{kind: deltaCall, call: i}) {
				return
			}
			for piece := range pieces(call.arguments) {
				if !yield(delta{kind: deltaArguments, call: i, text: piece}) {
					return
				}
			}
		}
	}
}

// endless yields words for ever.
func endless(yield func(delta) bool) {
	for i := 0; yield(delta{kind: deltaText, text: fillerWord(i)}); i++ {
	}
}

// fillerWord returns the i-th word of made-up text, one token, with the space before it.
func fillerWord(i int) string {
	if i == 0 {
		return "zero"
	}
	return [...]string{" one", " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten"}[(i-1)%10]
}

// filler returns text of exactly n tokens.
func filler(n int) string {
	var b strings.Builder
	b.Grow(n * 5)
	for i := range n {
		b.WriteString(fillerWord(i))
	}
	return b.String()
}
