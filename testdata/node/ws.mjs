// Both ends of a WebSocket: "serve" is an upstream that echoes and prints its port; "connect" is a client that does
// what the README's example says first, and then more. Between them is postern.
import WebSocket, { WebSocketServer } from 'ws';

const fail = (error) => {
  console.error(error.stack ?? error);
  process.exit(1);
};
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);
const once = (emitter, event) => new Promise((resolve, reject) => {
  emitter.once(event, (...values) => resolve(values));
  emitter.once('error', reject);
});
const equal = (got, want, what) => {
  if (got !== want) throw new Error(`${what} is ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
};

if (process.argv[2] === 'serve') {
  const server = new WebSocketServer({
    host: '127.0.0.1', port: 0, perMessageDeflate: { threshold: 64 },
    handleProtocols: (offered) => (offered.has('chat.v1') ? 'chat.v1' : false),
  });
  server.on('connection', (socket, request) => {
    const { headers, url } = request;
    socket.send(JSON.stringify({ url, client: headers['x-client-id'], protocol: socket.protocol, raw: JSON.stringify(request.rawHeaders) }));
    socket.on('message', (data, binary) => {
      if (!binary && String(data) === 'close me') socket.close(4002, 'by the server');
      else if (!binary && String(data) === 'ping me') socket.ping('in between');
      else socket.send(data, { binary });
    });
    socket.on('close', (code, reason) => console.log(JSON.stringify({ closed: code, reason: String(reason) })));
  });
  await once(server, 'listening');
  console.log(JSON.stringify({ port: server.address().port }));
  process.stdin.on('end', () => process.exit(0)).resume(); // it ends with the test
} else {
  const { front, token, clientId, example } = JSON.parse(process.env.POSTERN_TEST_WEBSOCKET);
  const held = [];
  const open = new Function('WebSocket', 'token', `${example}; return socket;`); // the README's lines
  const socket = open(class extends WebSocket {
    constructor(url, protocols) {
      super(url.replace('ws://127.0.0.1:8080', front), protocols, { perMessageDeflate: true, origin: 'https://app.example.com' });
    }
  }, token);
  const [greeting] = await once(socket, 'message');
  const met = JSON.parse(greeting);
  equal(met.url, '/chat', 'the target');
  equal(met.client, clientId, 'X-Client-Id');
  equal(met.protocol, 'chat.v1', 'the subprotocol at the server');
  equal(socket.protocol, 'chat.v1', 'the subprotocol');
  equal(met.raw.includes(token), false, 'the token at the server');
  equal(socket.extensions, 'permessage-deflate', 'the extension');
  held.push('handshake');

  for (const size of [0, 1, 125, 126, 65535, 65536, 65537, 1 << 20]) {
    for (const message of ['é'.repeat(size), Buffer.alloc(size, 0x88)]) {
      socket.send(message, { compress: size % 2 === 0 });
      const [data, binary] = await once(socket, 'message');
      equal(binary, typeof message !== 'string', 'the kind');
      equal(Buffer.compare(data, Buffer.from(message)), 0, `the echo of ${size}`);
    }
  }
  held.push('echo');

  socket.send('one ', { fin: false, compress: false });
  socket.ping('between');
  equal(String((await once(socket, 'pong'))[0]), 'between', 'the pong');
  socket.send('message', { fin: true, compress: false });
  equal(String((await once(socket, 'message'))[0]), 'one message', 'the fragmented message');
  socket.send('ping me');
  equal(String((await once(socket, 'ping'))[0]), 'in between', 'the ping');
  held.push('fragments and pings');

  socket.close(4001, 'by the client');
  equal((await once(socket, 'close'))[0], 4001, 'the code that came back');
  held.push('close');

  const other = new WebSocket(`${front}/chat?access_token=${token}&room=1`, { headers: { origin: 'https://app.example.com' } });
  equal(JSON.parse((await once(other, 'message'))[0]).url, '/chat?room=1', 'the target without the token');
  other.send('close me');
  const [code, reason] = await once(other, 'close');
  equal(`${code} ${reason}`, '4002 by the server', 'the server’s close');
  held.push('query, and closed by the server');

  const refused = async (path, protocols, options) => {
    const socket = new WebSocket(front + path, protocols, options);
    try {
      await once(socket, 'open');
    } catch (error) {
      return error.message;
    }
    throw new Error('accepted');
  };
  equal(await refused('/chat', ['chat.v1']), 'Unexpected server response: 401', 'without a token');
  equal(await refused('/chat', [`bearer.${token}x`, 'chat.v1']), 'Unexpected server response: 401', 'a bad token');
  equal(await refused('/chat', [`bearer.${token}`, 'chat.v1'], { origin: 'https://evil.example' }), 'Unexpected server response: 403', 'an origin');
  held.push('refusals');
  console.log(JSON.stringify({ held }));
}
