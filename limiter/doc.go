// Package limiter holds clients and organizations to their terms: a rate of requests with
// its burst, requests at once, quotas for a UTC day and a calendar month, and a rate of
// access tokens. A client's effective terms limit the client; its organization's own terms
// limit all its clients together. A request asks all of them in one pass under one short
// lock, and spends all or nothing; the longest wait names the refusal.
//
// What it must never do: make a request wait for the store or for Redis, or let more
// through because one of them is away. Start reading at Take, then share.run.
//
// # Quotas over a restart
//
// What the store knows was spent is read at Open, and until it could be read a hundredth
// of each quota is let through (one request at least), the rest refused for some seconds
// at a time. What a process that was killed had not yet written to the store is not counted
// any more.
//
// # Memory
//
// The account of who asked nothing for ten minutes is dropped when its burst is back. What
// it spent of the day and the month stays: some 200 bytes for each client that called in
// this month.
//
// # Shared limits
//
// A request is judged by what its own replica knows, at once. Four times a second, and at
// once for an account that was idle, a replica tells Redis of each account that something
// was asked of: what it spent so far today, how much is asked of it, what runs. It learns
// the same of all others, and from that
//
//   - adds what the others spent to its own view of the rate, beyond the burst if need be:
//     what was spent too much is paid back;
//   - knows what is left of the quotas, and how many requests run;
//   - takes a share of each limit that is its part of the demand, refused requests included.
//
// Between two reports it spends no more than its share. As long as nothing was learned about
// an account for two seconds its share is one of the replicas counted last: so a newcomer is
// served at once, and a Redis that is away, hangs or is late makes no limit wider.
//
// What is let through too much is what is spent before the others hear of it. With n
// replicas and a report every i (250 ms; more where thousands of accounts are active and take turns) that is
// heard within 2i, the shares at one moment are 2-1/n of a limit at most:
//
//	in any time t   requests ≤ burst + rate·t + (2-1/n)·(burst + rate·2i)
//	quota           the quota, and a few for rounding: a report gives out half of what is left; where a
//	                replica meets an account first, what it spends in 2i of its equal part
//	at once         limit + (n-1)·⌈limit/n⌉ until the others hear, where clients change replicas at once
//	without Redis   rate, quota and requests at once: the limit, and n-1 for rounding up
//
// What a replica spent is its own field and grows only: telling it twice, or not knowing
// whether it was told, changes nothing. An answer must hold what was written by the very
// report that it answers; it is for that account and that day or it is dropped. A Redis that
// lost its data gets it back from the replicas: each its own, and what it knew of those that
// are gone.
//
// A user of Redis needs no more than
//
//	ACL SETUSER postern on >password ~{postern:limits}:* +hset +hsetnx +hgetall +hdel +expire
//
// (+select too for a database by number). Keys hold the ids of organizations and clients, and
// expire: Redis must not evict others to make room. Two installations need two databases.
//
// A cluster will do, by the address of any node: each command has one key, and all keys one
// hash tag, so that one node has them. Where it names another node, that is asked at once;
// while the keys are on their way from node to node (ASK, TRYAGAIN), Redis is away.
package limiter
