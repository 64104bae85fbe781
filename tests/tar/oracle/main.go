// Answers what Go's archive/tar does, for the tests to compare with: "read" takes tar streams, each after its
// length (4 bytes, big endian), and writes a line of JSON for each; "write" takes a line of JSON with headers and
// data for each archive, and writes a line of JSON with the bytes and the first error.  Strings travel in hex.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"
)

const dataLimit = 1 << 20

type entry struct {
	Name, Linkname, Uname, Gname string
	Typeflag                     byte
	Size, Mode                   int64
	UID, GID                     int
	Devmajor, Devminor           int64
	Mtime, Atime, Ctime          *[2]int64
	Pax                          [][2]string
	Format                       int
	Length                       int
	Digest                       string
	Data                         string
}

type answer struct {
	Entries []entry
	Error   string
	Kind    string
	Data    string
}

func moment(t time.Time) *[2]int64 {
	if t.IsZero() {
		return nil
	}
	return &[2]int64{t.Unix(), int64(t.Nanosecond())}
}

func kind(err error) string {
	switch {
	case err == nil || err == io.EOF:
		return ""
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "truncated"
	default:
		return "invalid"
	}
}

func describe(h *tar.Header) entry {
	e := entry{
		Name: hex.EncodeToString([]byte(h.Name)), Linkname: hex.EncodeToString([]byte(h.Linkname)),
		Uname: hex.EncodeToString([]byte(h.Uname)), Gname: hex.EncodeToString([]byte(h.Gname)),
		Typeflag: h.Typeflag, Size: h.Size, Mode: h.Mode, UID: h.Uid, GID: h.Gid,
		Devmajor: h.Devmajor, Devminor: h.Devminor,
		Mtime: moment(h.ModTime), Atime: moment(h.AccessTime), Ctime: moment(h.ChangeTime),
		Pax: [][2]string{},
	}
	for k, v := range h.PAXRecords {
		e.Pax = append(e.Pax, [2]string{hex.EncodeToString([]byte(k)), hex.EncodeToString([]byte(v))})
	}
	for bit, format := range map[int]tar.Format{2: tar.FormatUSTAR, 4: tar.FormatPAX, 8: tar.FormatGNU} {
		if h.Format&format != 0 {
			e.Format |= bit
		}
	}
	return e
}

func readOne(stream []byte) (a answer) {
	a.Entries = []entry{}
	// A reader that can't seek, as layers are read.
	t := tar.NewReader(struct{ io.Reader }{bytes.NewReader(stream)})
	for {
		h, err := t.Next()
		if err != nil {
			if err != io.EOF {
				a.Error, a.Kind = err.Error(), kind(err)
			}
			return a
		}
		e := describe(h)
		data, err := io.ReadAll(io.LimitReader(t, dataLimit))
		digest := sha256.Sum256(data)
		e.Length, e.Digest = len(data), hex.EncodeToString(digest[:])
		a.Entries = append(a.Entries, e)
		if err != nil {
			a.Error, a.Kind = err.Error(), kind(err)
			return a
		}
	}
}

func text(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func at(t *[2]int64) time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t[0], t[1])
}

func header(e entry) *tar.Header {
	h := &tar.Header{
		Name: text(e.Name), Linkname: text(e.Linkname), Uname: text(e.Uname), Gname: text(e.Gname),
		Typeflag: e.Typeflag, Size: e.Size, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
		Devmajor: e.Devmajor, Devminor: e.Devminor,
		ModTime: at(e.Mtime), AccessTime: at(e.Atime), ChangeTime: at(e.Ctime),
	}
	if len(e.Pax) > 0 {
		h.PAXRecords = map[string]string{}
		for _, record := range e.Pax {
			h.PAXRecords[text(record[0])] = text(record[1])
		}
	}
	for bit, format := range map[int]tar.Format{2: tar.FormatUSTAR, 4: tar.FormatPAX, 8: tar.FormatGNU} {
		if e.Format&bit != 0 {
			h.Format |= format
		}
	}
	return h
}

func writeOne(entries []entry) (a answer) {
	var buffer bytes.Buffer
	t := tar.NewWriter(&buffer)
	err := func() error {
		for _, e := range entries {
			if err := t.WriteHeader(header(e)); err != nil {
				return err
			}
			if data := []byte(text(e.Data)); len(data) > 0 {
				if _, err := t.Write(data); err != nil {
					return err
				}
			}
		}
		return t.Close()
	}()
	if err != nil {
		a.Error = err.Error()
	}
	a.Data = hex.EncodeToString(buffer.Bytes())
	return a
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	answers := json.NewEncoder(out)
	questions := json.NewDecoder(in)
	for {
		var a answer
		if os.Args[1] == "read" {
			var length uint32
			if err := binary.Read(in, binary.BigEndian, &length); err != nil {
				return
			}
			stream := make([]byte, length)
			if _, err := io.ReadFull(in, stream); err != nil {
				panic(err)
			}
			a = readOne(stream)
		} else {
			var entries []entry
			if err := questions.Decode(&entries); err != nil {
				return
			}
			a = writeOne(entries)
		}
		if err := answers.Encode(a); err != nil {
			panic(err)
		}
	}
}
