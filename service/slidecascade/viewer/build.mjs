// Bundles the page into `built/`, with a gzip of each text beside it and the licence of what is bundled.
import { build } from "esbuild";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const OUT = "built";
rmSync(OUT, { recursive: true, force: true });
mkdirSync(OUT);
await build({
  entryPoints: ["src/main.ts"],
  outfile: `${OUT}/page.js`,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
});
await build({ entryPoints: ["src/page.css"], outfile: `${OUT}/page.css`, minify: true });
copyFileSync("src/index.html", `${OUT}/index.html`);
const licence = readFileSync("node_modules/openseadragon/LICENSE.txt", "utf8");
writeFileSync(`${OUT}/licences.txt`, `page.js contains OpenSeadragon:\n\n${licence}`);
for (const name of ["page.js", "page.css", "index.html"]) {
  writeFileSync(`${OUT}/${name}.gz`, gzipSync(readFileSync(`${OUT}/${name}`), { level: 9 }));
}
