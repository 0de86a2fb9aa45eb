package proxy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

// rawFrame is a frame of RFC 6455 §5.2: first is FIN, RSV and opcode; form is the number
// of bits that its length takes (7, 16 or 64), 0 for the shortest.
func rawFrame(first byte, form int, masked bool, payload string) []byte {
	b := []byte{first, 0}
	if form == 0 {
		switch {
		case len(payload) < 126:
			form = 7
		case len(payload) < 1<<16:
			form = 16
		default:
			form = 64
		}
	}
	switch form {
	case 7:
		b[1] = byte(len(payload))
	case 16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= 0x80
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d} // the RFC's own
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// shapes are the frames of RFC 6455 §5.7 and those at the borders of the forms of a length.
func shapes(masked bool) [][]byte {
	return [][]byte{
		rawFrame(0x81, 0, masked, "Hello"),
		rawFrame(0x01, 0, masked, "Hel"), rawFrame(0x80, 0, masked, "lo"),
		rawFrame(0x01, 0, masked, "Hel"), rawFrame(0x89, 0, masked, "in between"), rawFrame(0x00, 0, masked, ""), rawFrame(0x80, 0, masked, "lo"),
		rawFrame(0x89, 0, masked, "Hello"), rawFrame(0x8a, 0, masked, "Hello"),
		rawFrame(0x82, 0, masked, strings.Repeat("\x00", 256)),
		rawFrame(0x82, 0, masked, strings.Repeat("\xff", 65536)),
		rawFrame(0x82, 0, masked, strings.Repeat("\x88", 65537)),                                      // 64 KiB + 1
		rawFrame(0x82, 0, masked, ""), rawFrame(0x82, 16, masked, ""), rawFrame(0x82, 64, masked, ""), // not shortest: the peer's to refuse
		rawFrame(0x82, 0, masked, strings.Repeat("a", 125)), rawFrame(0x82, 0, masked, strings.Repeat("a", 126)), rawFrame(0x82, 0, masked, strings.Repeat("a", 65535)),
		rawFrame(0xc1, 0, masked, "compressed"), rawFrame(0xb3, 0, masked, "reserved"),
	}
}

// TestFramesEveryShape cuts each shape of a frame at every place: its end is known exactly.
func TestFramesEveryShape(t *testing.T) {
	for _, masked := range []bool{false, true} {
		for _, shape := range shapes(masked) {
			for cut := 1; cut <= len(shape); cut += 1 + cut/64*63 {
				var f frames
				first, rest := shape[:cut], shape[cut:]
				if n := f.next(first); n != len(first) || f.between() != (len(rest) == 0) {
					t.Fatalf("%x… of %d bytes, cut at %d: took %d, between %v", shape[:2], len(shape), cut, n, f.between())
				}
				more := append(bytes.Clone(rest), 0x81, 0x05)
				if n := f.next(more); len(rest) > 0 && (n != len(rest) || !f.between()) {
					t.Fatalf("%x… of %d bytes, cut at %d: its rest of %d took %d", shape[:2], len(shape), cut, len(rest), n)
				}
				if f.closed {
					t.Fatalf("%x… is no Close frame", shape[:2])
				}
			}
		}
	}
}

func TestFramesClose(t *testing.T) {
	f := func(name string, stream []byte, closed bool) {
		t.Helper()
		var followed frames
		followed.follow(stream)
		if followed.closed != closed {
			t.Errorf("%s: closed %v", name, followed.closed)
		}
	}
	mask := [4]byte{1, 2, 3, 4}
	f("ours", appendClose(nil, 1008, "policy", nil), true)
	f("ours, masked", appendClose(nil, 1008, "policy", &mask), true)
	f("empty", rawFrame(0x88, 0, false, ""), true)
	f("empty, masked", rawFrame(0x88, 0, true, ""), true)
	f("not whole", rawFrame(0x88, 0, true, "ab")[:7], false)
	f("its look in a payload", rawFrame(0x82, 0, false, "\x88\x00"), false)
	if got, want := appendClose(nil, 1001, "away", &mask), rawFrame(0x88, 0, true, "\x03\xe9away"); len(got) != len(want) || got[1] != 0x86 {
		t.Errorf("masked Close frame %x", got)
	}
	got := appendClose([]byte("x"), 1001, "away", &mask)[1:]
	for i := range got[6:] {
		got[6+i] ^= mask[i%4]
	}
	if string(got[6:]) != "\x03\xe9away" {
		t.Errorf("unmasked payload %q", got[6:])
	}
}

// FuzzFrames: however the runs of bytes are cut, the same boundaries are found, they are
// where a reader of one byte after the other finds them, and nothing of what is followed is changed.
func FuzzFrames(f *testing.F) {
	for _, masked := range []bool{false, true} {
		for i, shape := range shapes(masked) {
			if len(shape) < 1<<10 {
				f.Add(shape, uint64(i))
			}
		}
		f.Add(bytes.Join(shapes(masked)[:8], nil), uint64(7))
	}
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5}, uint64(1))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		var slow, fast frames
		boundaries := map[int]bool{}
		for i := range stream {
			slow.follow(stream[i : i+1])
			if slow.between() {
				boundaries[i+1] = true
			}
		}
		before, random := bytes.Clone(stream), rand.New(rand.NewPCG(seed, 0))
		for at := 0; at < len(stream); {
			run := stream[at:min(len(stream), at+1+random.IntN(40))]
			for len(run) > 0 {
				n := fast.next(run)
				if n < 1 || n > len(run) || n < len(run) && !fast.between() {
					t.Fatalf("took %d of %d", n, len(run))
				}
				at, run = at+n, run[n:]
				if fast.between() != boundaries[at] {
					t.Fatalf("at %d: between is %v", at, fast.between())
				}
			}
		}
		if fast.closed != slow.closed || fast.have != slow.have || fast.left != slow.left || !bytes.Equal(before, stream) {
			t.Fatalf("%+v, %+v", fast, slow)
		}
	})
}
