// Runs ONNX files in onnxruntime-web (WASM): node run_in_node.mjs MODULE JOBS.json [TURNS]
// A job names a file and its inputs, each a name, a type, a shape and a file of raw numbers. The
// first output is written beside the file, raw; a line of JSON a job says its shape. With TURNS all
// files then take turns, and the line holds the milliseconds of each.
import fs from 'fs';
import { pathToFileURL } from 'url';

const ort = await import(pathToFileURL(process.argv[2]).href);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';
const kinds = { float32: Float32Array, int64: BigInt64Array };
const turns = Number(process.argv[4] ?? 0);

function feed_of(job) {
  const feed = {};
  for (const input of job.inputs) {
    const bytes = new Uint8Array(fs.readFileSync(input.raw));
    feed[input.name] = new ort.Tensor(input.type, new kinds[input.type](bytes.buffer), input.shape);
  }
  return feed;
}

const loaded = [];
for (const job of JSON.parse(fs.readFileSync(process.argv[3], 'utf8'))) {
  const session = await ort.InferenceSession.create(fs.readFileSync(job.file), {
    executionProviders: ['wasm'],
    graphOptimizationLevel: job.optimized ? 'all' : 'disabled',
  });
  const feed = feed_of(job);
  const result = (await session.run(feed))[session.outputNames[0]];
  const raw = Buffer.from(result.data.buffer, result.data.byteOffset, result.data.byteLength);
  fs.writeFileSync(job.file + '.out', raw);
  const own = { shape: result.dims, ms: [] };
  if (turns) loaded.push({ session, feed, own });
  else {
    await session.release();
    console.log(JSON.stringify(own));
  }
}
for (let turn = 0; turn < turns; turn++) {
  for (const { session, feed, own } of loaded) {
    const before = process.cpuUsage();
    await session.run(feed);
    const taken = process.cpuUsage(before);
    own.ms.push((taken.user + taken.system) / 1000);
  }
}
for (const { own } of loaded) console.log(JSON.stringify(own));
