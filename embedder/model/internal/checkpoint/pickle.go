package checkpoint

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// maxPickle bounds a pickle. That of a network of 48 layers has a tenth of a megabyte: tensors are only named in it.
const maxPickle = 2 << 20

// The values of a pickle are nil, bool, int64, float64, string, and the following. Nothing else can be made by one:
// no name is looked up anywhere, and the only calls are those of [unpickler.reduce].
type (
	global string   // MODULE.NAME
	list   struct { // a list or a tuple
		items []any
		tuple bool
	}
	dict struct{ keys, values []any } // a dict or an OrderedDict, in its order
	// storage is the content of some tensors: numel elements of a format, in the archive under a key.
	storage struct {
		dtype DType
		key   string
		numel int64
	}
	// view is a tensor: elements of a storage from its element offset on.
	view struct {
		of            *storage
		offset        int64
		shape, stride []int
	}
	markValue struct{}
)

// storages are the names of torch's typed storages.
var storages = map[global]DType{
	"torch.FloatStorage": F32, "torch.HalfStorage": F16, "torch.BFloat16Storage": BF16, "torch.DoubleStorage": "F64",
	"torch.LongStorage": "I64", "torch.IntStorage": "I32", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}

// The two callables that a dictionary of tensors needs.
const (
	orderedDict   global = "collections.OrderedDict"
	rebuildTensor global = "torch._utils._rebuild_tensor_v2"
)

// An unpickler runs the opcodes of a pickle (Python's pickletools.py has their meaning) that dictionaries of tensors
// are made of, without the objects: it only collects values. Every opcode costs a constant amount of memory, and a
// pickle has at most [maxPickle] of them.
type unpickler struct {
	r     *bufio.Reader
	left  int // bytes that may still be read
	stack []any
	memo  map[uint64]any
	next  uint64 // index of MEMOIZE
	// persistent resolves the name of an object outside of the pickle.
	persistent func(any) (any, error)
}

// unpickle reads one pickle from r, leaving r right behind it.
func unpickle(r *bufio.Reader, persistent func(any) (any, error)) (any, error) {
	u := &unpickler{r: r, left: maxPickle, memo: make(map[uint64]any), persistent: persistent}
	for {
		op, err := u.byte()
		if err != nil {
			return nil, err
		}
		if op == '.' {
			return u.pop()
		}
		if err := u.do(op); err != nil {
			return nil, err
		}
	}
}

// do runs one opcode: constants here, the rest by what it is for.
func (u *unpickler) do(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := u.byte()
		if err == nil && v > 5 {
			err = fmt.Errorf("pickle of protocol %d, at most 5 is known", v)
		}
		return err
	case 0x95: // FRAME, the length of what follows
		_, err := u.number(8)
		return err
	case 'N':
		return u.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		return u.push(op == 0x88)
	case '(':
		return u.push(markValue{})
	case ')', ']':
		return u.push(&list{tuple: op == ')'})
	case '}':
		return u.push(&dict{})
	case 'K', 'M', 'J', 'G', 0x8a: // BININT1, BININT2, BININT, BINFLOAT, LONG1
		return u.numeric(op)
	case 'X', 0x8c, 'U', 'T': // BINUNICODE, SHORT_BINUNICODE, SHORT_BINSTRING, BINSTRING
		return u.text(op)
	case 'q', 'r', 0x94, 'h', 'j': // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
		return u.remember(op)
	case 't', 0x85, 0x86, 0x87: // TUPLE, TUPLE1 to TUPLE3
		return u.makeTuple(op)
	}
	return u.build(op)
}

// build runs the opcodes that put values together.
func (u *unpickler) build(op byte) error {
	switch op {
	case 'c': // GLOBAL
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.global(module + "." + name)
	case 0x93: // STACK_GLOBAL
		v, err := u.popN(2)
		if err != nil {
			return err
		}
		module, ok1 := v[0].(string)
		name, ok2 := v[1].(string)
		if !ok1 || !ok2 {
			return errors.New("the pickle names something by what is no text")
		}
		return u.global(module + "." + name)
	case 'R': // REDUCE
		v, err := u.popN(2)
		if err != nil {
			return err
		}
		return u.reduce(v[0], v[1])
	case 'b': // BUILD: an OrderedDict's attributes, such as the versions of its modules
		v, err := u.popN(2)
		if err != nil {
			return err
		}
		if _, ok := v[0].(*dict); !ok {
			return errors.New("the pickle sets attributes of what is no dictionary")
		}
		return u.push(v[0])
	case 'Q': // BINPERSID
		id, err := u.pop()
		if err == nil {
			id, err = u.persistent(id)
		}
		if err != nil {
			return err
		}
		return u.push(id)
	case 's', 'u', 'a', 'e': // SETITEM, SETITEMS, APPEND, APPENDS
		return u.fill(op)
	}
	return fmt.Errorf("the pickle has the opcode %#02x, which dictionaries of tensors do not need", op)
}

// global pushes a name if it is one of the few that are known.
func (u *unpickler) global(name string) error {
	g := global(name)
	if _, ok := storages[g]; !ok && g != orderedDict && g != rebuildTensor {
		return fmt.Errorf("the pickle names %.100q, which is neither a storage, %s nor %s: nothing else is read", name, orderedDict, rebuildTensor)
	}
	return u.push(g)
}

// reduce "calls" one of the two callables.
func (u *unpickler) reduce(callee, arguments any) error {
	args, ok := arguments.(*list)
	if !ok || !args.tuple {
		return errors.New("the pickle calls something with what is no tuple")
	}
	switch {
	case callee == orderedDict && len(args.items) == 0:
		return u.push(&dict{})
	case callee == rebuildTensor && (len(args.items) == 6 || len(args.items) == 7):
		v, err := newView(args.items)
		if err != nil {
			return err
		}
		return u.push(v)
	}
	return fmt.Errorf("the pickle calls %s with %d arguments", say(callee), len(args.items))
}

// say describes a value of a pickle for an error, in a few words whatever it holds.
func say(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("%.100q", v)
	case global:
		return fmt.Sprintf("%.100q", string(v))
	case nil, bool, int64, float64:
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("a %.60s", strings.TrimPrefix(fmt.Sprintf("%T", v), "*checkpoint."))
}

// newView reads (storage, offset, shape, strides, ...); the rest is about training.
func newView(args []any) (*view, error) {
	of, ok := args[0].(*storage)
	offset, whole := args[1].(int64)
	shape, err1 := dimensions(args[2])
	stride, err2 := dimensions(args[3])
	switch {
	case !ok:
		return nil, errors.New("the pickle makes a tensor of what is no storage")
	case !whole || offset < 0:
		return nil, errors.New("the pickle makes a tensor with no place in its storage")
	case err1 != nil || err2 != nil:
		return nil, errors.Join(err1, err2)
	case len(shape) != len(stride):
		return nil, fmt.Errorf("the pickle makes a tensor of shape %v with strides %v", shape, stride)
	}
	return &view{of, offset, shape, stride}, nil
}

// dimensions reads a shape or strides.
func dimensions(v any) ([]int, error) {
	l, ok := v.(*list)
	if !ok || len(l.items) > 8 {
		return nil, errors.New("the pickle makes a tensor whose shape is no tuple of at most 8 numbers")
	}
	dims := make([]int, len(l.items))
	for i, item := range l.items {
		n, ok := item.(int64)
		if !ok || n < 0 || n > 1<<40 {
			return nil, fmt.Errorf("the pickle makes a tensor with the dimension or stride %s", say(item))
		}
		dims[i] = int(n)
	}
	return dims, nil
}

func (u *unpickler) numeric(op byte) error {
	switch op {
	case 'K', 'M':
		v, err := u.number(map[byte]int{'K': 1, 'M': 2}[op])
		if err != nil {
			return err
		}
		return u.push(int64(v))
	case 'J':
		v, err := u.number(4)
		if err != nil {
			return err
		}
		return u.push(int64(int32(v)))
	case 'G':
		b, err := u.bytes(8)
		if err != nil {
			return err
		}
		return u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	}
	n, err := u.number(1)
	if err != nil {
		return err
	}
	b, err := u.bytes(n)
	if err != nil {
		return err
	}
	if n > 8 { // the number that begins a file of the old form has 10 bytes, and is compared as they are
		return u.push(string(b))
	}
	var v uint64
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	if shift := 64 - 8*n; n > 0 {
		return u.push(int64(v<<shift) >> shift)
	}
	return u.push(int64(0))
}

func (u *unpickler) text(op byte) error {
	width := 4
	if op == 0x8c || op == 'U' {
		width = 1
	}
	n, err := u.number(width)
	if err != nil {
		return err
	}
	b, err := u.bytes(n)
	if err != nil {
		return err
	}
	return u.push(string(b))
}

func (u *unpickler) remember(op byte) error {
	at := u.next
	if op != 0x94 {
		width := 1
		if op == 'r' || op == 'j' {
			width = 4
		}
		var err error
		if at, err = u.number(width); err != nil {
			return err
		}
	}
	if op == 'h' || op == 'j' {
		v, ok := u.memo[at]
		if !ok {
			return fmt.Errorf("the pickle recalls entry %d, which it has not noted", at)
		}
		return u.push(v)
	}
	if len(u.stack) == 0 {
		return errors.New("the pickle notes a value where there is none")
	}
	u.memo[at] = u.stack[len(u.stack)-1]
	u.next++
	return nil
}

func (u *unpickler) makeTuple(op byte) error {
	var items []any
	var err error
	if op == 't' {
		items, err = u.popMark()
	} else {
		items, err = u.popN(int(op-0x85) + 1)
	}
	if err != nil {
		return err
	}
	return u.push(&list{items: append([]any(nil), items...), tuple: true})
}

// fill adds values to the list or dictionary below them.
func (u *unpickler) fill(op byte) error {
	var items []any
	var err error
	switch op {
	case 's':
		items, err = u.popN(2)
	case 'a':
		items, err = u.popN(1)
	default:
		items, err = u.popMark()
	}
	if err != nil {
		return err
	}
	if len(u.stack) == 0 {
		return errors.New("the pickle adds values to nothing")
	}
	switch to := u.stack[len(u.stack)-1].(type) {
	case *list:
		if to.tuple || op == 's' || op == 'u' {
			return errors.New("the pickle adds values to what can't be added to")
		}
		to.items = append(to.items, items...)
	case *dict:
		if op == 'a' || op == 'e' || len(items)%2 != 0 {
			return errors.New("the pickle adds values to a dictionary without their keys")
		}
		for i := 0; i < len(items); i += 2 {
			to.keys, to.values = append(to.keys, items[i]), append(to.values, items[i+1])
		}
	default:
		return errors.New("the pickle adds values to what is neither a list nor a dictionary")
	}
	return nil
}

func (u *unpickler) push(v any) error {
	u.stack = append(u.stack, v)
	return nil
}

func (u *unpickler) pop() (any, error) {
	v, err := u.popN(1)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

var errStack = errors.New("the pickle takes a value where there is none")

// popN takes the last n values. They are valid until the next push.
func (u *unpickler) popN(n int) ([]any, error) {
	at := len(u.stack) - n
	if at < 0 {
		return nil, errStack
	}
	v := u.stack[at:]
	for _, x := range v {
		if x == (markValue{}) {
			return nil, errStack
		}
	}
	u.stack = u.stack[:at]
	return v, nil
}

// popMark takes the values above the last mark, and the mark.
func (u *unpickler) popMark() ([]any, error) {
	for at, v := range slices.Backward(u.stack) {
		if _, ok := v.(markValue); ok {
			v := u.stack[at+1:]
			u.stack = u.stack[:at]
			return v, nil
		}
	}
	return nil, errStack
}

func (u *unpickler) byte() (byte, error) {
	b, err := u.bytes(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// number reads a little-endian number of so many bytes.
func (u *unpickler) number(width int) (uint64, error) {
	b, err := u.bytes(uint64(width))
	var v uint64
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	return v, err
}

// bytes reads n bytes.
func (u *unpickler) bytes(n uint64) ([]byte, error) {
	if n > uint64(u.left) {
		return nil, fmt.Errorf("the pickle has more than %d bytes, or claims so", maxPickle)
	}
	u.left -= int(n)
	b := make([]byte, n)
	if _, err := io.ReadFull(u.r, b); err != nil {
		return nil, errors.New("the pickle is cut short")
	}
	return b, nil
}

// line reads up to a newline.
func (u *unpickler) line() (string, error) {
	var s strings.Builder
	for {
		b, err := u.byte()
		if err != nil || b == '\n' {
			return s.String(), err
		}
		s.WriteByte(b)
	}
}
