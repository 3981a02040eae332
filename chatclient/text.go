package chatclient

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Text reads the whole stream and returns the answer's text: of the turn as it is stored, not as it was streamed. With an
// error, it returns what had come of the text.
func (s *Stream) Text() (string, error) {
	sofar := textParts{}
	for event, err := range s.Events() {
		if err != nil {
			if turn := s.Turn(); turn != nil {
				return turnText(turn), err
			}
			return sofar.String(), err
		}
		sofar.add(event)
	}
	return turnText(s.Turn()), goneError(s.Turn())
}

// TextDeltas returns the answer's text piece by piece, as it is generated. The pieces joined are the text of the turn as it
// is stored, or the last one comes with an error.
//
// It is for readers that cannot take back what they have. When the turn is generated anew, what comes is compared with
// what was given, and only more of it is passed on; if it differs, no piece is given any more, and the loop ends with
// [ErrTextVoid] when the turn has ended. [Stream.Turn] then has the answer. Leaving the loop early is as in [Stream.Events].
func (s *Stream) TextDeltas() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var given givenText
		for event, err := range s.Events() {
			if err != nil {
				yield("", err)
				return
			}
			if piece := given.next(event); piece != "" && !yield(piece, nil) {
				return
			}
		}
		if err := goneError(s.Turn()); err != nil {
			yield("", err)
			return
		}
		piece, ok := strings.CutPrefix(turnText(s.Turn()), given.text.String())
		switch {
		case !ok:
			yield("", ErrTextVoid)
		case piece != "":
			yield(piece, nil)
		}
	}
}

// givenText is text that was given piece by piece.
type givenText struct {
	text strings.Builder
	at   int   // where the generation now is in text; behind its end when it was begun anew
	part int32 // of the last piece
	void bool  // the generation has left what was given
}

// next returns what an event adds to the text given.
func (g *givenText) next(event *chatsvcv1.TurnEvent) string {
	if event.GetOutputReset() != nil {
		g.at, g.part, g.void = 0, 0, false
	}
	delta := event.GetTextDelta()
	if delta == nil || g.void {
		return ""
	}
	// A piece for an earlier part belongs before what was given.
	g.void = delta.GetPartIndex() < g.part
	g.part = delta.GetPartIndex()
	again := g.text.String()[g.at:]
	again = again[:min(len(again), len(delta.GetText()))]
	piece, ok := strings.CutPrefix(delta.GetText(), again)
	if g.void = g.void || !ok; g.void {
		return ""
	}
	g.at += len(delta.GetText())
	g.text.WriteString(piece)
	return piece
}

// textParts is the text of an answer so far, by part.
type textParts map[int32]*strings.Builder

func (p textParts) add(event *chatsvcv1.TurnEvent) {
	if event.GetOutputReset() != nil {
		clear(p)
	}
	delta := event.GetTextDelta()
	if delta == nil {
		return
	}
	part := p[delta.GetPartIndex()]
	if part == nil {
		part = &strings.Builder{}
		p[delta.GetPartIndex()] = part
	}
	part.WriteString(delta.GetText())
}

func (p textParts) String() string {
	var all strings.Builder
	for _, index := range slices.Sorted(maps.Keys(p)) {
		all.WriteString(p[index].String())
	}
	return all.String()
}

// turnText returns the text parts of a turn's output, joined. The server leaves output_text out where it is long.
func turnText(turn *chatsvcv1.Turn) string {
	if text := turn.GetOutputText(); text != "" {
		return text
	}
	var all strings.Builder
	for _, message := range turn.GetOutput() {
		for _, part := range message.GetParts() {
			all.WriteString(part.GetText())
		}
	}
	return all.String()
}

// goneError returns the error for an answer that is no longer kept.
func goneError(turn *chatsvcv1.Turn) error {
	if !turn.GetContentExpired() {
		return nil
	}
	return reasonError(codes.FailedPrecondition, "CONTENT_EXPIRED", "the turn's answer is no longer kept", turn)
}
