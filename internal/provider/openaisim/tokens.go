package openaisim

import (
	"iter"
	"unicode"
	"unicode/utf8"
)

// What a message, a request and an image cost beside their text, in tokens.
const (
	tokensPerMessage  = 4
	tokensPerRequest  = 3
	tokensPerLowImage = 85
	tokensPerImage    = 765
)

type runeClass int

const (
	classLetter runeClass = iota
	classDigit
	classOther
	classSpace
)

// pieceLimit is the greatest number of runes in a piece, by class.
var pieceLimit = [...]int{classLetter: 20, classDigit: 3, classOther: 16, classSpace: 64}

func classOf(r rune) runeClass {
	switch {
	case unicode.IsLetter(r) || unicode.IsMark(r):
		return classLetter
	case unicode.IsDigit(r):
		return classDigit
	case unicode.IsSpace(r):
		return classSpace
	default:
		return classOther
	}
}

const zeroWidthJoiner = '\u200d'

// attaches reports whether r belongs to the rune before it.
func attaches(r rune) bool {
	return r >= 0x300 && (r == zeroWidthJoiner || unicode.IsMark(r) || r >= 0x1f3fb && r <= 0x1f3ff)
}

func isRegionalIndicator(r rune) bool { return r >= 0x1f1e6 && r <= 0x1f1ff }

// nextPiece returns the length in bytes of the first token of s, which must not be
// empty. It allocates nothing, and never ends inside a rune.
func nextPiece(s string) int {
	start := leadingSpace(s)
	switch {
	case start == len(s) || start > 0 && s[start-1] != ' ':
		return start
	case start > 1: // the last space goes with the word after it
		return start - 1
	}
	r, n := utf8.DecodeRuneInString(s[start:])
	class := classOf(r)
	if class == classSpace { // a run of more than the limit
		return start
	}
	end, prev, count, flagOpen := start+n, r, 1, isRegionalIndicator(r)
	for end < len(s) {
		r, n = utf8.DecodeRuneInString(s[end:])
		joined := attaches(r) || prev == zeroWidthJoiner || flagOpen && isRegionalIndicator(r)
		if !joined && (count >= pieceLimit[class] || !continues(class, r, s[end+n:])) {
			break
		}
		flagOpen = isRegionalIndicator(r) && !flagOpen
		end, prev, count = end+n, r, count+1
	}
	return end
}

// leadingSpace returns the length in bytes of the white space that s begins with, up
// to the limit of a piece.
func leadingSpace(s string) int {
	end := 0
	for range pieceLimit[classSpace] {
		r, n := utf8.DecodeRuneInString(s[end:])
		if n == 0 || classOf(r) != classSpace {
			break
		}
		end += n
	}
	return end
}

// continues reports whether r, which is followed by rest, belongs to a piece of class.
func continues(class runeClass, r rune, rest string) bool {
	if class == classLetter && (r == '\'' || r == '’') {
		next, _ := utf8.DecodeRuneInString(rest)
		return unicode.IsLetter(next)
	}
	return classOf(r) == class
}

// pieces yields the tokens of s, which joined are s.
func pieces(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s != "" {
			n := nextPiece(s)
			if !yield(s[:n]) {
				return
			}
			s = s[n:]
		}
	}
}

// countTokens returns the number of tokens in s.
func countTokens(s string) int {
	count := 0
	for s != "" {
		s = s[nextPiece(s):]
		count++
	}
	return count
}

// firstTokens returns the first limit tokens of s, and how many they are. A negative
// limit is none.
func firstTokens(s string, limit int) (string, int) {
	if limit < 0 {
		return s, countTokens(s)
	}
	count, end := 0, 0
	for end < len(s) && count < limit {
		end += nextPiece(s[end:])
		count++
	}
	return s[:end], count
}

// promptTokens counts what the request costs, and the part of it that a prompt cache
// would hold: everything before the last user message.
func promptTokens(req *request) (total, cached int) {
	for i := range req.Tools {
		fn := &req.Tools[i].Function
		total += countTokens(fn.Name) + countTokens(fn.Description) + countTokens(string(fn.Parameters))
	}
	for i := range req.Messages {
		m := &req.Messages[i]
		if m.Role == "user" {
			cached = total
		}
		total += tokensPerMessage + m.contentTokens() + countTokens(m.Name)
		for _, call := range m.ToolCalls {
			total += 1 + countTokens(call.Function.Name) + countTokens(call.Function.Arguments)
		}
	}
	if cached < 1024 {
		cached = 0
	}
	return total + tokensPerRequest, cached &^ 127
}
