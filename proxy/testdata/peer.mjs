// A server that tells on its output of each request that it saw, one JSON line for each.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

const tell = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const server = createServer((request, response) => {
  const sum = createHash('sha256')
  let length = 0
  const seen = (whole) => ({
    client: request.headers['x-forwarded-for'] ?? '', method: request.method, target: request.url,
    length, sum: whole ? sum.digest('hex') : '', whole,
  })
  request.on('data', (piece) => { sum.update(piece); length += piece.length })
  request.on('end', () => { tell(seen(true)); response.end('seen') })
  request.on('aborted', () => tell(seen(false)))
})
server.keepAliveTimeout = 0
server.requestTimeout = 0
server.headersTimeout = 0
server.on('clientError', (err, socket) => {
  if (err.code !== 'ECONNRESET' && err.code !== 'HPE_INVALID_EOF_STATE') tell({ refused: err.code })
  socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
})
server.listen(0, '127.0.0.1', () => tell({ port: server.address().port }))
