// Package window decides which turns of a conversation are sent to the model when not all of them fit.
//
// The oldest turns are dropped first, whole, and in large steps. A provider caches the prefix of a prompt; dropping
// one turn at each request would change the prefix every time and the cache would never be hit. So the cut stays on an
// anchor, a boundary between turns where the branch's token count passes a multiple of the step, until what follows no longer
// fits, and then jumps to a later one. Anchors depend only on the branch's tokens, so that every replica finds the
// same cut with nothing remembered.
package window

// Turn is what the choice needs to know of one ended turn: its input and its output together.
type Turn struct {
	// Start is the number of tokens in the branch before this turn, in the encoding they were stored with. It is 0 for
	// the first turn of the branch and for no other, increases from turn to turn, and never changes.
	Start int64
	// Tokens is what sending the turn costs in the encoding of the model that is asked; not negative.
	Tokens int
	// Continues says that the input answers tool calls of the turn before. A model refuses the answers without the
	// calls, so such a turn is kept only together with the one before it.
	Continues bool
}

// Fit returns the index of the first turn to send: turns[first:] fit in the budget, which is in tokens. It is len(turns) when
// none does.
//
// The turns are in order, oldest first. They may be a suffix of the branch as long as [Enough] holds of it, and then
// the cut is the one that the whole branch would give. The last mustKeep turns, and those that they continue, are never
// dropped; a new input that answers tool calls needs mustKeep 1. When they do not fit, or the budget is negative, or
// mustKeep is more than there is, ok is false.
//
// The step is in tokens of the stored encoding; one below 1 counts as 1, which drops as little as possible. It should
// come from something that stays the same from request to request, such as a fraction of the model's context; where it is
// larger than the budget, or a single turn is, there may be no anchor that fits, and the cut then is the earliest
// boundary that does.
func Fit(turns []Turn, budget, step, mustKeep int) (first int, ok bool) {
	if budget < 0 || mustKeep > len(turns) {
		return 0, false
	}
	earliest := fitting(turns, budget)
	latest, ok := boundary(turns, len(turns)-max(mustKeep, 0))
	if !ok || latest < earliest {
		return 0, false
	}
	if earliest == 0 && (len(turns) == 0 || !turns[0].Continues) {
		return 0, true
	}

	// What is before the earliest place tells whether the first boundary from there on is an anchor.
	previous, known := 0, false
	if earliest > 0 {
		previous, known = boundary(turns, earliest-1)
	}
	first = -1
	for i := earliest; i <= latest; i++ {
		if i < len(turns) && turns[i].Continues {
			continue
		}
		if first < 0 {
			first = i
		}
		if i < len(turns) && known && passes(turns[previous], turns[i], step) {
			return i, true
		}
		previous, known = i, true
	}
	return first, true
}

// Enough reports whether a suffix of the branch, oldest first, decides what [Fit] returns, so that older turns need not
// be read: it reaches back to the start of the branch, or to a turn that could be the first but is already too much. A
// reader asks this after each page, and stops as well when there is nothing older.
func Enough(turns []Turn, budget int) bool {
	if len(turns) == 0 {
		return false
	}
	if turns[0].Start == 0 {
		return true
	}
	// The boundary that is too much matters for more than its size: whether the next one is an anchor depends on it.
	_, ok := boundary(turns, fitting(turns, budget)-1)
	return ok
}

// fitting returns the lowest index from which all turns together fit in the budget.
func fitting(turns []Turn, budget int) int {
	i := len(turns)
	for i > 0 && turns[i-1].Tokens <= budget {
		i--
		budget -= turns[i].Tokens
	}
	return i
}

// boundary returns the last place at or before i where history may begin; ok is false when there is none.
func boundary(turns []Turn, i int) (at int, ok bool) {
	for i >= 0 && i < len(turns) && turns[i].Continues {
		i--
	}
	return i, i >= 0
}

// passes says whether a multiple of the step lies between two boundaries, the second included: then it is an anchor.
func passes(before, at Turn, step int) bool {
	size := int64(max(step, 1))
	return at.Start/size > before.Start/size
}
