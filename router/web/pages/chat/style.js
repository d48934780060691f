// The looks of the chat, as a constructed sheet: a strict policy allows no inline style.
const css = `
:host { --ink: #17202a; --soft: #5a6673; --paper: #fff; --ground: #f4f6f8; --line: #d9dfe5; --ours: #fff; --mine: #0b5f56;
  --mine-ink: #fff; --accent: #0b5f56; --warn: #fff4d6; --warn-ink: #5c4400; --warn-line: #e5c466; --bad: #b3261e; --info: #e3f1f8; --info-ink: #11485f; --info-line: #9fcbe0;
}
/* A page's own rules beat :host, so nothing is inherited from it: the outermost parts begin anew. */
.panel, .launch { all: initial; box-sizing: border-box; color-scheme: light dark; color: var(--ink); font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { :host { --ink: #e9eef2; --soft: #a3b0bb; --paper: #1a2128; --ground: #12171c; --line: #35404a; --ours: #242d36;
  --mine: #14756a; --accent: #5fd0c0; --warn: #3a2f10; --warn-ink: #ffe3a1; --warn-line: #6d5a20; --bad: #ff9c94; --info: #123040; --info-ink: #bfe3f5; --info-line: #2c5a72; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
button, input, textarea { font: inherit; color: inherit; }
button { cursor: pointer; }
::placeholder { color: var(--soft); opacity: 1; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.launch { position: fixed; inset: auto 20px 20px auto; z-index: 2147483000; width: 60px; height: 60px; border: 0; border-radius: 50%; cursor: pointer;
  background: var(--mine); color: #fff; box-shadow: 0 6px 20px #0005; display: grid; place-items: center; }
.launch svg { width: 28px; height: 28px; }
.badge { position: absolute; top: -4px; right: -4px; min-width: 22px; padding: 0 6px; border-radius: 11px; background: #b3261e; color: #fff; font-size: 13px; line-height: 22px; }
.panel { display: flex; flex-direction: column; background: var(--paper); overflow: hidden; }
.float { position: fixed; inset: auto 20px 92px auto; z-index: 2147483000; width: 384px; height: min(620px, calc(100dvh - 112px)); border-radius: 16px;
  border: 1px solid var(--line); box-shadow: 0 12px 40px #0004; }
.page { height: 100dvh; max-width: 760px; margin: 0 auto; border-inline: 1px solid var(--line); }
@media (max-width: 480px) { .float { inset: 0; width: 100vw; height: 100dvh; border: 0; border-radius: 0; } .page { border: 0; } }
header { display: flex; gap: 12px; align-items: center; padding: 12px 16px; border-bottom: 1px solid var(--line); }
header h2 { margin: 0; font-size: 17px; line-height: 1.25; overflow-wrap: anywhere; }
.who { flex: 1; min-width: 0; }
.state { font-size: 13px; color: var(--soft); display: flex; gap: 6px; align-items: center; }
.state::before { content: ""; width: 9px; height: 9px; border-radius: 50%; background: #c98a00; }
.state.on::before { background: #1d9a6c; }
.state.off::before { background: var(--bad); }
.reference { font-size: 13px; color: var(--soft); text-align: right; white-space: nowrap; }
.reference b { color: var(--ink); font: 600 14px ui-monospace, Menlo, Consolas, monospace; letter-spacing: .06em; display: block; user-select: all; }
.icon { border: 0; background: none; width: 36px; height: 36px; border-radius: 8px; display: grid; place-items: center; color: var(--soft); flex: none; }
.icon:hover { background: var(--ground); }
.icon svg { width: 20px; height: 20px; }
.banner { padding: 10px 16px; font-size: 14px; background: var(--warn); color: var(--warn-ink); border-bottom: 1px solid var(--warn-line); }
.banner.moved { background: var(--info); color: var(--info-ink); border-color: var(--info-line); }
.banner p { margin: 0; }
.banner p + p { margin-top: 2px; }
.log { flex: 1; overflow-y: auto; overscroll-behavior: contain; padding: 16px; background: var(--ground); display: flex; flex-direction: column; gap: 8px; }
.log > :first-child { margin-top: auto; }
.line { max-width: 82%; align-self: flex-start; }
.line.mine { align-self: flex-end; }
.text { padding: 9px 13px; border-radius: 16px 16px 16px 4px; background: var(--ours); border: 1px solid var(--line); white-space: pre-wrap; overflow-wrap: anywhere; }
.mine .text { background: var(--mine); color: var(--mine-ink); border-color: var(--mine); border-radius: 16px 16px 4px; }
.pending .text { border-style: dashed; border-color: #fff; }
.meta { font-size: 12px; color: var(--soft); padding: 2px 4px 0; }
.mine .meta { text-align: right; }
.failed .meta { color: var(--bad); }
.notice { align-self: center; max-width: 92%; text-align: center; }
.notice .text { background: var(--info); color: var(--info-ink); border-color: var(--info-line); border-radius: 12px; font-size: 14px; }
.mark { align-self: stretch; display: flex; align-items: center; gap: 10px; font-size: 12.5px; color: var(--soft); margin: 6px 0; }
.mark::before, .mark::after { content: ""; flex: 1; border-top: 1px solid var(--line); }
.hello { align-self: center; text-align: center; color: var(--soft); max-width: 36ch; margin: auto !important; text-wrap: balance; }
.hello .quiet { font-size: 14px; }
.details { border-top: 1px solid var(--line); padding: 12px 16px; display: grid; gap: 8px; max-height: 60%; overflow-y: auto; flex: none; }
.details h3 { margin: 0; font-size: 15px; }
.details h3 small { display: block; font-weight: 400; color: var(--soft); font-size: 13px; }
.fields { display: grid; gap: 8px 12px; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); align-items: end; }
.details label { font-size: 13px; display: grid; gap: 2px; }
.details input:not([type=checkbox]) { padding: 8px 10px; border: 1px solid #7b8894; border-radius: 8px; background: var(--paper); font-size: 16px; width: 100%; }
.details label.consent { display: flex; gap: 8px; align-items: flex-start; font-size: 14px; }
.consent input { width: 18px; height: 18px; margin: 1px 0 0; flex: none; accent-color: var(--mine); }
.problem { color: var(--bad); font-size: 14px; margin: 0; }
.row { display: flex; gap: 8px; }
.main, .quiet { padding: 8px 14px; border-radius: 8px; border: 1px solid var(--mine); background: var(--mine); color: #fff; }
.quiet { background: none; border-color: #7b8894; color: var(--ink); }
.say { display: flex; gap: 8px; padding: 10px 12px; border-top: 1px solid var(--line); align-items: flex-end; padding-bottom: max(10px, env(safe-area-inset-bottom)); }
.say textarea { flex: 1; min-width: 0; resize: none; max-height: 140px; padding: 10px 14px; border: 1px solid #7b8894; border-radius: 20px; background: var(--paper); font-size: 16px; line-height: 1.35; }
.say button { border: 0; width: 44px; height: 44px; border-radius: 50%; background: var(--mine); color: #fff; display: grid; place-items: center; flex: none; }
.say button:disabled { background: var(--line); color: var(--soft); cursor: default; }
.say svg { width: 20px; height: 20px; }
.hush { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (prefers-reduced-motion: no-preference) { .line { animation: come .16s ease-out; } @keyframes come { from { opacity: 0; transform: translateY(6px); } } }
`;

export const sheet = new CSSStyleSheet();
sheet.replaceSync(css);
