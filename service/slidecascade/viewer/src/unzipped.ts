// The files of a zip archive, by APPNOTE 4.3: listed by the directory at its end, stored or deflated.

const END = 0x06054b50;
const END_BYTES = 22;
const ENTRY = 0x02014b50;
const ENTRY_BYTES = 46;
const HEAD_BYTES = 30;
const STORED = 0;

/** The contents by name. Archives of more than 4 GB or 65,535 files are not read. */
export async function unzipped(archive: Blob): Promise<Map<string, Blob>> {
  const content = await archive.arrayBuffer();
  const view = new DataView(content);
  const end = endOf(view);
  const files = new Map<string, Blob>();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error("The archive is damaged.");
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((place) => view.getUint16(at + place, true)) as [number, number, number];
    const name = new TextDecoder().decode(new Uint8Array(content, at + ENTRY_BYTES, nameBytes));
    const head = view.getUint32(at + 42, true);
    // The extra fields of a file's own head can be others than those of the directory.
    const start = head + HEAD_BYTES + view.getUint16(head + 26, true) + view.getUint16(head + 28, true);
    const packed = archive.slice(start, start + view.getUint32(at + 20, true));
    files.set(name, view.getUint16(at + 10, true) === STORED ? packed : await inflated(packed));
    at += ENTRY_BYTES + nameBytes + extraBytes + commentBytes;
  }
  return files;
}

/** Where the record that ends the archive begins: at its very end, but for a comment. */
function endOf(view: DataView): number {
  for (let at = view.byteLength - END_BYTES; at >= 0; at--) {
    if (view.getUint32(at, true) === END) return at;
  }
  throw new Error("The archive is truncated.");
}

function inflated(packed: Blob): Promise<Blob> {
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
}
