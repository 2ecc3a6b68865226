// Draws every chosen icon once at 224 x 224 with transparency.
// Writes icons.rgba (premultiplied RGBA, one picture after the other) and icons.json (what is where).
const fs = require('fs');
const path = require('path');
const { Resvg } = require('@resvg/resvg-js');

const SIZE = 224;
const SETS = { 'fluent-emoji': 'glossy', 'fluent-emoji-flat': 'flat' };
const outDir = process.argv[2] || path.join(__dirname, 'work');

const names = fs.readFileSync(path.join(__dirname, 'concepts.txt'), 'utf8')
  .split('\n').filter(line => line && !line.startsWith('#')).map(line => line.split('|')[0]);

const index = [];
const pixels = [];
const missing = [];
for (const [set, style] of Object.entries(SETS)) {
  const collection = require(`@iconify-json/${set}/icons.json`);
  for (const name of names) {
    const alias = collection.aliases && collection.aliases[name];
    const icon = collection.icons[name] || (alias && collection.icons[alias.parent]);
    if (!icon) { missing.push(`${set}:${name}`); continue; }
    const width = icon.width || collection.width || 16;
    const height = icon.height || collection.height || 16;
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" `
      + `viewBox="${icon.left || 0} ${icon.top || 0} ${width} ${height}">${icon.body}</svg>`;
    const picture = new Resvg(svg, { fitTo: { mode: 'width', value: SIZE } }).render();
    if (picture.width !== SIZE || picture.height !== SIZE) { missing.push(`${set}:${name} (not square)`); continue; }
    index.push({ style, name });
    pixels.push(Buffer.from(picture.pixels));
  }
}
fs.mkdirSync(outDir, { recursive: true });
fs.writeFileSync(path.join(outDir, 'icons.json'), JSON.stringify(index));
fs.writeFileSync(path.join(outDir, 'icons.rgba'), Buffer.concat(pixels));
console.log(`${index.length} icons drawn; not there: ${missing.join(', ') || 'none'}`);
