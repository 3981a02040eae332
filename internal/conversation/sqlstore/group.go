package sqlstore

import (
	"cmp"
	"context"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// keys are the rows that the ops of a group look at.
type keys struct {
	claims []newClaim // to be made, where the request id is free
	freed  []claimKey // request ids that may become free
	lines  []conversation.ID
	locks  []conversation.ID // running turns whose rows are changed
	runs   []conversation.ID // running turns that are not found with their lines
	ends   []turnKey         // turns that should be running; looked up in turns where they are not
	turns  []any             // team and id
}

// A group is what one transaction knows, as its ops see it one after the other, and what it is going to write.
type group struct {
	owner  owner
	keys   keys
	claims map[claimKey]conversation.Claim
	lines  map[conversation.ID]*line
	runs   map[conversation.ID]*run
	turns  map[turnKey]turnRow
	begun  map[conversation.ID]bool

	// Rows to write, flat, in the order of the columns of the set of the same name.
	goneClaims, endedRuns, movedMessages, newConversations, newBranches, startedTurns, recordedTurns, endedTurns, newTurns,
	newMessages, startedRuns, changedRuns, newRuns, goneEvents, newEvents, newSpecs, heads, goneConversations, deletions,
	goneTurns, goneMessages, goneLogs []any
	changed      []conversation.ID // the lines with something to write
	changedTurns []conversation.ID // the running turns with something to write
	// then runs after all else has been written.
	then []func(context.Context, *setWriter) error
	// woken are the turns and conversations of which subscribers are told after the commit.
	woken []conversation.ID

	args []any // for load
}

// A line is a conversation's main line, with what identifies the conversation.
type line struct {
	team                 string
	spec                 int64
	createTime, specTime int64
	head, tip            conversation.ID
	position, tokens     int64
	version, headTime    int64

	active  conversation.ID   // the turn that runs on the line
	waiting []conversation.ID // the turns that wait for it, the first in front
	forks   []conversation.ID // the turns that run on branches of their own

	changed    bool // is in group.changed
	moved      bool // the head is to be written
	newSpec    any  // what is to be written of the spec, with expireTime; nil for nothing
	expireTime int64
}

// place is the end of the line.
func (l *line) place() conversation.Place {
	if l.head.IsZero() {
		return conversation.Place{}
	}
	return conversation.Place{Branch: l.tip, Position: l.position, Tokens: l.tokens}
}

// first is the turn that has the line or is going to have it next.
func (l *line) first() conversation.ID {
	if l.active.IsZero() && len(l.waiting) > 0 {
		return l.waiting[0]
	}
	return l.active
}

// A run is a row of running.
type run struct {
	team                            string
	conversation                    conversation.ID
	main                            bool  // on the main line
	ticket                          int64 // above 0 while the turn waits
	owner                           owner
	branch                          conversation.ID
	start, position, tokens         int64
	callers                         int64
	cancel                          bool
	isChanged, isRecorded, isLogged bool // by an op of this group
}

type turnKey struct {
	team string
	id   conversation.ID
}

type turnRow struct {
	conversation conversation.ID
	state        conversation.State
	end          conversation.Place
}

type claimKey struct{ team, requestID string }

func (k claimKey) compare(other claimKey) int {
	return cmp.Or(cmp.Compare(k.requestID, other.requestID), cmp.Compare(k.team, other.team))
}

type newClaim struct {
	claimKey
	conversation.Claim
	time int64
}

func newGroup(o owner) *group {
	return &group{
		owner:  o,
		claims: make(map[claimKey]conversation.Claim),
		lines:  make(map[conversation.ID]*line),
		runs:   make(map[conversation.ID]*run),
		turns:  make(map[turnKey]turnRow),
		begun:  make(map[conversation.ID]bool),
	}
}

// reset empties g but keeps the memory; it lets go of the values, which hold content.
func (g *group) reset() {
	clear(g.claims)
	clear(g.lines)
	clear(g.runs)
	clear(g.turns)
	clear(g.begun)
	clear(g.keys.claims)
	clear(g.keys.freed)
	clear(g.keys.ends)
	g.keys.claims, g.keys.freed, g.keys.ends = g.keys.claims[:0], g.keys.freed[:0], g.keys.ends[:0]
	for _, s := range []*[]conversation.ID{
		&g.keys.lines, &g.keys.locks, &g.keys.runs, &g.changed, &g.changedTurns, &g.woken,
	} {
		*s = (*s)[:0]
	}
	for _, s := range []*[]any{
		&g.keys.turns, &g.args, &g.goneClaims, &g.endedRuns, &g.movedMessages, &g.newConversations, &g.newBranches,
		&g.startedTurns, &g.recordedTurns, &g.endedTurns, &g.newTurns, &g.newMessages, &g.startedRuns, &g.changedRuns, &g.newRuns,
		&g.goneEvents, &g.newEvents, &g.newSpecs, &g.heads, &g.goneConversations, &g.deletions, &g.goneTurns, &g.goneMessages,
		&g.goneLogs,
	} {
		clear(*s)
		*s = (*s)[:0]
	}
	clear(g.then)
	g.then = g.then[:0]
}

// line returns the main line of a conversation of the team, as the ops before have left it.
func (g *group) line(team string, id conversation.ID) (*line, error) {
	l := g.lines[id]
	if l == nil || l.team != team {
		return nil, conversation.ErrNotFound
	}
	return l, nil
}

// running returns a turn that runs or waits, in whatever process.
func (g *group) running(k turnKey) (*run, error) {
	if g.begun[k.id] {
		return nil, errNextGroup
	}
	if r := g.runs[k.id]; r != nil && r.team == k.team {
		return r, nil
	}
	if _, ok := g.turns[k]; ok {
		return nil, conversation.ErrTurnEnded
	}
	return nil, conversation.ErrNotFound
}

// mine is running for turns of this owner.
func (g *group) mine(k turnKey) (*run, error) {
	r, err := g.running(k)
	if err == nil && !g.owns(r) {
		return nil, conversation.ErrTurnEnded
	}
	return r, err
}

func (g *group) owns(r *run) bool { return r.owner == g.owner }

// changeLine has what is to be written of a line written at the end of the group, once.
func (g *group) changeLine(id conversation.ID, l *line) {
	if !l.changed {
		l.changed = true
		g.changed = append(g.changed, id)
	}
}

// changeRun is changeLine for a running turn.
func (g *group) changeRun(id conversation.ID, r *run) {
	if !r.isChanged {
		r.isChanged = true
		g.changedTurns = append(g.changedTurns, id)
	}
}

// free gives up a claim, if it is turn's.
func (g *group) free(k claimKey, turn conversation.ID) {
	if k.requestID != "" && g.claims[k].Turn == turn {
		delete(g.claims, k)
		g.goneClaims = append(g.goneClaims, k.team, []byte(k.requestID), turn[:])
	}
}

// addBranch adds a branch that grows out of another at from, and ends at end with the messages of turn. tip is NULL but
// for main lines.
func (g *group) addBranch(id, in any, from conversation.Place, turn any, end conversation.Place, time int64, tip any) {
	var parent any // NULL where nothing is shared
	if from.Position > 0 {
		parent = idArg(from.Branch)
	}
	g.newBranches = append(g.newBranches, id, in, parent, from.Position, turn, end.Position, end.Tokens, int64(1), time, tip)
}

// wake has subscribers of an id told.
func (g *group) wake(id conversation.ID) {
	if !id.IsZero() {
		g.woken = append(g.woken, id)
	}
}
