package sqlstore

import (
	"cmp"
	"context"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// keys are the rows that the ops of a group look at.
type keys struct {
	claims  []newClaim // to be made, where the request id is free
	freed   []claimKey // request ids that may become free
	lines   []conversation.ID
	locks   []conversation.ID // running turns whose rows are changed
	runs    []conversation.ID // running turns that are not found with their lines
	running []turnKey         // turns that should be running; looked up in turns where they are not
	callers []conversation.ID // running turns whose callers are looked at
	turns   []any             // team and id
	tenancy tenancyKeys
}

// A group is what one transaction knows, as its ops see it one after the other, and what it is going to write.
type group struct {
	owner  owner
	keys   keys
	claims map[claimKey]conversation.Claim
	made   map[claimKey]bool // the claims that were made by load, for turns that are not decided yet
	lines  map[conversation.ID]*line
	runs   map[conversation.ID]*run
	turns  map[turnKey]turnRow
	begun  map[conversation.ID]bool
	// tenancy is the control plane, where keys names something of it.
	tenancy tenancy

	rows         map[*set][]any    // to write, flat
	changedLines []conversation.ID // the lines with something to write
	changedRuns  []conversation.ID // the running turns with something to write
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

	changed    bool // is in group.changedLines
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
	takeovers                       int64
	cancel, asked                   bool // somebody asks to cancel it, and asked before this group
	counted                         bool // the next three are known and kept
	callersHere, hadCallersHere     bool // now, and before this group
	callersElsewhere                bool
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
		made:   make(map[claimKey]bool),
		lines:  make(map[conversation.ID]*line),
		runs:   make(map[conversation.ID]*run),
		turns:  make(map[turnKey]turnRow),
		begun:  make(map[conversation.ID]bool),
		rows:   make(map[*set][]any),

		tenancy: newTenancy(),
	}
}

// reset empties g but keeps the memory; it lets go of the values, which hold content.
func (g *group) reset() {
	clear(g.claims)
	clear(g.made)
	clear(g.lines)
	clear(g.runs)
	clear(g.turns)
	clear(g.begun)
	g.tenancy.reset()
	g.keys.tenancy.reset()
	clear(g.keys.claims)
	clear(g.keys.freed)
	clear(g.keys.running)
	g.keys.claims, g.keys.freed, g.keys.running = g.keys.claims[:0], g.keys.freed[:0], g.keys.running[:0]
	for _, s := range []*[]conversation.ID{
		&g.keys.lines, &g.keys.locks, &g.keys.runs, &g.keys.callers, &g.changedLines, &g.changedRuns, &g.woken,
	} {
		*s = (*s)[:0]
	}
	for _, s := range []*[]any{&g.keys.turns, &g.args} {
		clear(*s)
		*s = (*s)[:0]
	}
	for s, rows := range g.rows {
		clear(rows)
		g.rows[s] = rows[:0]
	}
	clear(g.then)
	g.then = g.then[:0]
}

// add has rows of a set written, in the order of its columns.
func (g *group) add(s *set, rows ...any) { g.rows[s] = append(g.rows[s], rows...) }

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

// mine is running for turns of this owner that it has had since they were taken over so often.
func (g *group) mine(k turnKey, takeovers int64) (*run, error) {
	r, err := g.running(k)
	if err == nil && !g.owns(r, takeovers) {
		return nil, conversation.ErrTurnEnded
	}
	return r, err
}

func (g *group) owns(r *run, takeovers int64) bool {
	return r.owner == g.owner && r.takeovers == takeovers
}

// changeLine has what is to be written of a line written at the end of the group, once.
func (g *group) changeLine(id conversation.ID, l *line) {
	if !l.changed {
		l.changed = true
		g.changedLines = append(g.changedLines, id)
	}
}

// changeRun is changeLine for a running turn.
func (g *group) changeRun(id conversation.ID, r *run) {
	if !r.isChanged {
		r.isChanged = true
		g.changedRuns = append(g.changedRuns, id)
	}
}

// free gives up a claim, if it is turn's.
func (g *group) free(k claimKey, turn conversation.ID) {
	if k.requestID != "" && g.claims[k].Turn == turn {
		delete(g.claims, k)
		g.add(deleteClaims, k.team, []byte(k.requestID), turn[:])
	}
}

// settle frees a claim that was made for turn, if the turn is refused; otherwise the claim stays, whatever comes later in
// the group.
func (g *group) settle(k claimKey, turn conversation.ID, refusal error) {
	if !g.made[k] || g.claims[k].Turn != turn {
		return
	}
	delete(g.made, k)
	if refusal != nil {
		g.free(k, turn)
	}
}

// addBranch adds a branch that grows out of another at from, and ends at end with the messages of turn. tip is NULL but
// for main lines.
func (g *group) addBranch(id, in any, from conversation.Place, turn any, end conversation.Place, time int64, tip any) {
	var parent any // NULL where nothing is shared
	if from.Position > 0 {
		parent = idArg(from.Branch)
	}
	g.add(insertBranches, id, in, parent, from.Position, turn, end.Position, end.Tokens, int64(1), time, tip)
}

// wake has subscribers of an id told.
func (g *group) wake(id conversation.ID) {
	if !id.IsZero() {
		g.woken = append(g.woken, id)
	}
}
