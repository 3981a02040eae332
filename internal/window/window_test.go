package window_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/chatsvc/chatsvc/internal/window"
)

// branch builds turns of these sizes; a negative size is a turn that continues the one before.
func branch(sizes ...int) []window.Turn {
	var turns []window.Turn
	var start int64
	for _, size := range sizes {
		turn := window.Turn{Start: start, Tokens: max(size, -size), Continues: size < 0}
		turns = append(turns, turn)
		start += int64(turn.Tokens)
	}
	return turns
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		name                   string
		turns                  []window.Turn
		budget, step, mustKeep int
		first                  int
		ok                     bool
	}{
		{"no history", nil, 100, 10, 0, 0, true},
		{"no history, no room", nil, 0, 10, 0, 0, true},
		{"no history, less than no room", nil, -1, 10, 0, 0, false},
		{"no history to keep", nil, 100, 10, 1, 0, false},
		{"all fits exactly", branch(10, 10, 10), 30, 10, 0, 0, true},
		{"one token short, every boundary an anchor", branch(10, 10, 10), 29, 10, 0, 1, true},
		{"no step drops as little as possible", branch(10, 10, 10, 10), 25, 0, 0, 2, true},
		// The starts are 0, 10, …, 50: only 30 passes a multiple of 25, then 50.
		{"cut at the anchor, not at the first fit", branch(10, 10, 10, 10, 10, 10), 50, 25, 0, 3, true},
		{"the anchor holds while the history grows", branch(10, 10, 10, 10, 10, 10)[:5], 49, 25, 0, 3, true},
		{"the next anchor", branch(10, 10, 10, 10, 10, 10), 29, 25, 0, 5, true},
		{"no anchor fits", branch(10, 10, 10, 10), 20, 1000, 0, 2, true},
		{"nothing fits", branch(10, 10), 5, 10, 0, 2, true},
		{"nothing fits and one is needed", branch(10, 10), 5, 10, 1, 0, false},
		{"needed, and more than there is", branch(10), 100, 10, 2, 0, false},
		{"an anchor beyond what is needed does not count", branch(10, 10, 10, 10, 10, 10), 50, 50, 2, 1, true},
		{"never cut between calls and results", branch(10, 10, -10, 10), 25, 10, 0, 3, true},
		{"the anchor moves past results", branch(10, 10, 10, -10, 10, 10), 50, 25, 0, 4, true},
		{"needed results need their calls", branch(10, 10, -10), 30, 10, 1, 0, true},
		{"needed results without room for their calls", branch(10, 10, -10), 19, 10, 1, 0, false},
		{"a long chain of tool calls is one piece", branch(10, 10, -10, -10, -10), 39, 10, 1, 0, false},
		{"a long chain of tool calls may go as a whole", branch(10, 10, -10, -10, -10), 39, 10, 0, 5, true},
		{"free turns", branch(0, 0, 0), 0, 10, 0, 0, true},
		{"sizes that would overflow a sum", []window.Turn{{0, math.MaxInt, false}, {math.MaxInt64 / 2, math.MaxInt, false}, {math.MaxInt64, 1, false}}, math.MaxInt, 1 << 40, 0, 2, true},
	} {
		first, ok := window.Fit(c.turns, c.budget, c.step, c.mustKeep)
		if first != c.first || ok != c.ok {
			t.Errorf("%s: Fit = %d, %v, want %d, %v", c.name, first, ok, c.first, c.ok)
		}
	}
}

func TestEnough(t *testing.T) {
	whole := branch(10, 10, -10, 10, 10)
	for _, c := range []struct {
		name   string
		turns  []window.Turn
		budget int
		want   bool
	}{
		{"nothing read", nil, 0, false},
		{"all of the branch", whole, 1000, true},
		{"a suffix that fits", whole[1:], 40, false},
		{"a suffix that does not fit", whole[1:], 39, true},
		{"too much, but begins with results", whole[2:], 20, false},
		{"too much later on, where it could begin", whole[2:], 19, true},
		{"no room at all", whole[4:], -1, true},
	} {
		if got := window.Enough(c.turns, c.budget); got != c.want {
			t.Errorf("%s: Enough = %v, want %v", c.name, got, c.want)
		}
	}
}

// check holds for every history; it is shared by the random test and the fuzz test.
func check(t *testing.T, turns []window.Turn, budget, step, mustKeep int) {
	t.Helper()
	first, ok := window.Fit(turns, budget, step, mustKeep)

	// The definition, read off the page: places where history may begin, what follows each, and what must stay.
	var places []int
	for i := range len(turns) + 1 {
		if i == len(turns) || !turns[i].Continues {
			places = append(places, i)
		}
	}
	follows := func(i int) (sum int) {
		for _, turn := range turns[i:] {
			sum += turn.Tokens
		}
		return sum
	}
	want, found, anchored := 0, false, false
	for n, i := range places {
		keepsEnough := len(turns)-i >= mustKeep
		if follows(i) > budget || !keepsEnough || anchored {
			continue
		}
		anchor := i == 0
		if n > 0 && i < len(turns) {
			anchor = turns[i].Start/int64(max(step, 1)) > turns[places[n-1]].Start/int64(max(step, 1))
		}
		if !found || anchor {
			want, found, anchored = i, true, anchor
		}
	}
	if ok != found || ok && first != want {
		t.Fatalf("Fit(%v, %d, %d, %d) = %d, %v, want %d, %v", turns, budget, step, mustKeep, first, ok, want, found)
	}

	// Every suffix that is enough gives the same cut; and to load more never makes it not enough.
	enough := false
	for i := len(turns); i >= 0; i-- {
		suffix := turns[i:]
		if !window.Enough(suffix, budget) {
			if enough {
				t.Fatalf("Enough(%v, %d) is false, and is true of a shorter suffix", suffix, budget)
			}
			continue
		}
		enough = true
		gotFirst, gotOK := window.Fit(suffix, budget, step, mustKeep)
		if gotOK != ok || ok && gotFirst+i != first {
			t.Fatalf("Fit(%v[%d:], %d, %d, %d) = %d, %v, want %d, %v as of the whole", turns, i, budget, step, mustKeep, gotFirst, gotOK, first-i, ok)
		}
	}
	if len(turns) > 0 && !enough {
		t.Fatalf("Enough(%v, %d) is false of the whole branch", turns, budget)
	}
}

func TestFitMatchesItsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var turns []window.Turn
		var start int64
		for i := range r.IntN(12) {
			turns = append(turns, window.Turn{Start: start, Tokens: r.IntN(30), Continues: i > 0 && r.IntN(3) == 0})
			start += 1 + r.Int64N(30) // the stored encoding counts differently from the model's
		}
		check(t, turns, r.IntN(200)-2, r.IntN(80), r.IntN(4))
	}
}

// A growing conversation keeps its prefix for about a step of tokens at a time.
func TestCutMovesRarely(t *testing.T) {
	const budget, step, longest = 10_000, 2_500, 400
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var turns []window.Turn
		var total int64
		moves, last := 0, 0
		for range 1000 {
			size := 1 + r.IntN(longest)
			turns = append(turns, window.Turn{Start: total, Tokens: size, Continues: len(turns) > 0 && r.IntN(4) == 0})
			total += int64(size)
			first, ok := window.Fit(turns, budget, step, 0)
			if !ok || first < last {
				t.Fatalf("seed %d: cut at %d, %v after one at %d", seed, first, ok, last)
			}
			if first != last {
				moves++
				last = first
			}
		}
		if limit := int(total / step); moves > limit || moves < limit/2 {
			t.Errorf("seed %d: the cut moved %d times in %d tokens, want about one move every %d", seed, moves, total, step)
		}
	}
}

func FuzzFit(f *testing.F) {
	f.Add([]byte{10, 10, 138, 10, 10}, 25, 10, 1)
	f.Add([]byte{}, 0, 0, 0)
	f.Add([]byte{0, 255, 128, 127}, -1, -5, -3)
	f.Fuzz(func(t *testing.T, sizes []byte, budget, step, mustKeep int) {
		var turns []window.Turn
		var start int64
		for i, size := range sizes[:min(len(sizes), 60)] {
			turns = append(turns, window.Turn{Start: start, Tokens: int(size & 127), Continues: i > 0 && size > 127})
			start += int64(size&127) + 1
		}
		if budget < 0 {
			if first, ok := window.Fit(turns, budget, step, mustKeep); ok {
				t.Fatalf("Fit = %d, true with a budget of %d", first, budget)
			}
			return
		}
		check(t, turns, budget, step, mustKeep)
	})
}
