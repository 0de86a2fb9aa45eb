package proxy

import (
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"postern/answer"
)

// accessField is a place in accessNames.
type accessField uint8

// The fields of an access line, in the order in which they come by default.
const (
	accessTime accessField = iota
	accessRequestID
	accessMethod
	accessHost
	accessPath
	accessRoute
	accessStatus
	accessReason
	accessUpstreamStatus
	accessUpstreamMS
	accessDurationMS
	accessPeer
	accessUserAgent
	accessOrganizationID
	accessClientID
	accessTokenID
	accessBytesIn
	accessBytesOut
	accessUpstream
	accessAttempts
	accessShadow
)

// accessNames are the fields' names in a line and in the settings.
var accessNames = [...]string{
	accessTime: "time", accessRequestID: "request_id", accessMethod: "method", accessHost: "host", accessPath: "path",
	accessRoute: "route", accessStatus: "status", accessReason: "reason", accessUpstreamStatus: "upstream_status",
	accessUpstreamMS: "upstream_ms", accessDurationMS: "duration_ms", accessPeer: "peer", accessUserAgent: "user_agent",
	accessOrganizationID: "organization_id", accessClientID: "client_id", accessTokenID: "token_id",
	accessBytesIn: "bytes_in", accessBytesOut: "bytes_out", accessUpstream: "upstream", accessAttempts: "attempts", accessShadow: "shadow",
}

// AccessFields lists the fields that an access line can have.
func AccessFields() []string { return slices.Clone(accessNames[:]) }

func allAccessFields() []accessField {
	all := make([]accessField, len(accessNames))
	for i := range all {
		all[i] = accessField(i)
	}
	return all
}

func accessFieldsOf(names []string) ([]accessField, error) {
	if len(names) == 0 {
		return allAccessFields(), nil
	}
	fields := make([]accessField, 0, len(names))
	for _, name := range names {
		i := slices.Index(accessNames[:], name)
		if i < 0 || slices.Contains(fields, accessField(i)) {
			return nil, fmt.Errorf("access field %q is not known, or named twice", name)
		}
		fields = append(fields, accessField(i))
	}
	return fields, nil
}

// accessRecord is one request as its line tells it. The path comes without its query:
// clients put tokens there.
type accessRecord struct {
	x      *exchange
	route  string
	reason answer.Reason
	status int
	took   time.Duration
	now    time.Time
}

// append writes the line. What a request does not have is left out.
func (r *accessRecord) append(b []byte, fields []accessField) []byte {
	b = append(b, '{')
	from := len(b)
	for _, f := range fields {
		b = r.appendField(b, f)
	}
	if len(b) > from {
		b = b[:len(b)-1] // the last comma
	}
	return append(b, '}', '\n')
}

// appendField writes one member with a comma behind it.
func (r *accessRecord) appendField(b []byte, f accessField) []byte {
	x := r.x
	switch f {
	case accessTime:
		b = append(appendName(b, f), '"')
		b = r.now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
		return append(b, '"', ',')
	case accessRequestID:
		return appendText(b, f, x.requestID)
	case accessMethod:
		return appendText(b, f, x.head.method)
	case accessHost:
		return appendText(b, f, x.head.host)
	case accessPath:
		return appendText(b, f, x.head.path)
	case accessRoute:
		return appendText(b, f, r.route)
	case accessStatus:
		return appendNumber(b, f, int64(r.status))
	case accessReason:
		return appendText(b, f, string(r.reason))
	case accessUpstreamStatus:
		if x.upstreamStatus != 0 {
			return appendNumber(b, f, int64(x.upstreamStatus))
		}
	case accessUpstreamMS:
		if x.upstreamStatus != 0 {
			return appendMilliseconds(b, f, x.upstreamTook)
		}
	case accessDurationMS:
		return appendMilliseconds(b, f, r.took)
	case accessPeer:
		b = append(appendName(b, f), '"')
		b = appendAddress(b, x.peer)
		return append(b, '"', ',')
	case accessUserAgent:
		for i := range x.head.fields {
			if equalFold(x.head.fields[i].name, "user-agent") {
				return appendText(b, f, x.head.fields[i].value)
			}
		}
	case accessOrganizationID, accessClientID, accessTokenID:
		return r.appendIdentity(b, f)
	case accessBytesIn:
		return appendNumber(b, f, x.client.content.got)
	case accessBytesOut:
		return appendNumber(b, f, x.bytesOut)
	case accessUpstream:
		if x.endpoint != "" {
			return appendText(b, f, x.endpoint)
		}
	case accessAttempts:
		if x.attempts != 0 {
			return appendNumber(b, f, int64(x.attempts))
		}
	case accessShadow:
		if x.shadow != "" {
			return appendText(b, f, string(x.shadow))
		}
	}
	return b
}

func (r *accessRecord) appendIdentity(b []byte, f accessField) []byte {
	c := r.x.who.Client
	switch {
	case c == nil:
		return b
	case f == accessOrganizationID:
		return appendText(b, f, c.OrganizationID)
	case f == accessClientID:
		return appendText(b, f, c.ID)
	}
	b = append(appendName(b, f), '"')
	b = appendUUID(b, r.x.who.Token)
	return append(b, '"', ',')
}

func appendName(b []byte, f accessField) []byte {
	b = append(b, '"')
	b = append(b, accessNames[f]...)
	return append(b, '"', ':')
}

func appendNumber(b []byte, f accessField, n int64) []byte {
	return append(strconv.AppendInt(appendName(b, f), n, 10), ',')
}

func appendMilliseconds(b []byte, f accessField, d time.Duration) []byte {
	return append(strconv.AppendFloat(appendName(b, f), milliseconds(d), 'f', 3, 64), ',')
}

// appendText writes value escaped and cut.
func appendText[T string | []byte](b []byte, f accessField, value T) []byte {
	b = append(appendName(b, f), '"')
	cut := false
	if len(value) > accessCut {
		value, cut = value[:accessCut], true
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c >= utf8.RuneSelf || c == 0x7f: // one line, and no terminal's escape
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	if cut {
		b = append(b, "..."...)
	}
	return append(b, '"', ',')
}
